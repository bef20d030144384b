"""What an error says."""

from collections.abc import Callable
from typing import Any

import pytest


def message_of(error_type: type[Exception], function: Callable[..., Any], *arguments: Any) -> str:
    """The text of the error of this type that a call raises."""
    with pytest.raises(error_type) as error:
        function(*arguments)
    return str(error.value)
