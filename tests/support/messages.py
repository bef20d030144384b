"""What an error says."""

from collections.abc import Callable
from typing import Any

import pytest


def message_of(error_type: type[Exception], function: Callable[..., Any], *arguments: Any) -> str:
    """The text of the error of this type that a call raises."""
    with pytest.raises(error_type) as error:
        function(*arguments)
    return str(error.value)


def after_plan(text: str) -> str:
    """What a command printed after the plan of its memory, whose last line ends with what remains."""
    return text.split("remain\n", 1)[1]
