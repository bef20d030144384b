"""Stop strings in a stream of text: what may be shown now, and what must wait.

Invariant: the pieces joined are the text up to the stop, no part of which is ever shown, however the text is cut. The
stop is the one that is complete first, and of several that end at the same character the longest.
Source: Aho and Corasick, "Efficient string matching", CACM 18(6), 1975: each character costs the same, however many
stops there are.
"""

from collections import deque
from collections.abc import Sequence
from functools import lru_cache


class StopStrings:
    """Holds back the longest end of the text that begins a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._automaton = _automaton(tuple(stops))
        self._state, self._held = 0, ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; returns what may be shown, and whether a stop was reached, after which nothing may be added."""
        automaton, state = self._automaton, self._state
        text, begin = self._held + text, len(self._held)
        for at in range(begin, len(text)):
            state = automaton.next_state(state, text[at])
            if automaton.stop_length[state]:
                self._state, self._held = 0, ""
                return text[: at + 1 - automaton.stop_length[state]], True
        shown = len(text) - automaton.depth[state]
        self._state, self._held = state, text[shown:]
        return text[:shown], False

    def finish(self) -> str:
        """What was held back, when the text ends without a stop."""
        text, self._state, self._held = self._held, 0, ""
        return text


class _Automaton:
    """States are the beginnings of the stops; state 0 is the empty one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.depth, self.stop_length = [0], [0]  # by state: its characters; the longest stop that it ends with, or 0
        self._children: list[dict[str, int]] = [{}]
        self._shorter = [0]  # by state: its longest proper end that is a state too
        for stop in stops:
            state = 0
            for character in stop:
                state = self._child(state, character)
            self.stop_length[state] = len(stop)
        waiting = deque(self._children[0].values())
        while waiting:
            state = waiting.popleft()
            self.stop_length[state] = self.stop_length[state] or self.stop_length[self._shorter[state]]
            for character, child in self._children[state].items():
                self._shorter[child] = self.next_state(self._shorter[state], character)
                waiting.append(child)

    def next_state(self, state: int, character: str) -> int:
        """The longest end of the text that is a state, after one more character."""
        while state and character not in self._children[state]:
            state = self._shorter[state]
        return self._children[state].get(character, 0)

    def _child(self, state: int, character: str) -> int:
        child = self._children[state].setdefault(character, len(self.depth))
        if child == len(self.depth):
            self.depth.append(self.depth[state] + 1)
            self.stop_length.append(0)
            self._shorter.append(0)
            self._children.append({})
        return child


@lru_cache(maxsize=64)
def _automaton(stops: tuple[str, ...]) -> _Automaton:
    return _Automaton(stops)
