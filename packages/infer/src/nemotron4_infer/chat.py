"""Turns of a conversation as the tokens of a prompt.

Invariant: turn markers are inserted by their ids, so no text of a message begins or ends a turn.
Source: the chat template published with Nemotron-Mini-4B-Instruct. Without a system message it is also the prompt of
Nemotron-4-340B-Instruct. In their text form, where a system message is optional:

    <extra_id_0>System
    {system message}

    <extra_id_1>User
    {first question}
    <extra_id_1>Assistant
    {first answer}
    <extra_id_1>User
    {second question}
    <extra_id_1>Assistant
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemotron4_common.rules import require
from nemotron4_data import Tokenizer

SYSTEM_MARKER, TURN_MARKER = "<extra_id_0>", "<extra_id_1>"
_NAMES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}


def is_tuned_to_chat(directory: Path) -> bool:
    """Whether a model directory has a chat template of its own, as those of instruct models do."""
    if (directory / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((directory / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


@dataclass(frozen=True)
class ChatTemplate:
    """How a tokenizer writes a conversation down."""

    tokenizer: Tokenizer
    """It has both markers."""
    system_id: int
    """Id of the marker before the system message."""
    turn_id: int
    """Id of the marker before each turn, which also ends the one before it."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer: none, since a turn ends with a token."""

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template of a tokenizer, None if it lacks a marker. Not every model with a template was tuned to chat."""
        try:
            return cls(tokenizer, tokenizer.id_of(SYSTEM_MARKER), tokenizer.id_of(TURN_MARKER))
        except ValueError:
            return None

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, beside the end-of-sequence token."""
        return self.system_id, self.turn_id

    def encode(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """The prompt to which the model's next answer is the continuation; nothing is to be put in front of it.

        `messages` are (role, text); text is stripped, as in training. At most one system message (also called
        developer) comes first, and a user's is the last. ValueError, one line, for other roles or another order.
        """
        for number, (role, _) in enumerate(messages):
            key, rule = f"messages.{number}.role", f"must be one of {', '.join(_NAMES)}"
            require(role in _NAMES, key, repr(role)[:40], rule)
            is_misplaced = number > 0 and _NAMES[role] == "System"
            require(not is_misplaced, key, role, "must be the first message; put its text there")
        last = messages[-1][0] if messages else "none"
        require(last == "user", "messages", f"last role: {last}", "must end with a message of the user to answer")
        system = ""
        if _NAMES[messages[0][0]] == "System":
            system, messages = messages[0][1].strip(), messages[1:]
        head = f"System\n{system}\n\n" if system else "System\n\n"
        turns = [f"{_NAMES[role]}\n{text.strip()}\n" for role, text in messages] + ["Assistant\n"]
        ids = [self.system_id, *self.tokenizer.encode(head)]
        for turn in turns:
            ids += [self.turn_id, *self.tokenizer.encode(turn)]
        return ids
