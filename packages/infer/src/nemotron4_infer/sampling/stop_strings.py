"""Stop strings in a stream of text: what may be shown now, and what must wait.

Invariant: the pieces joined are the text up to the first stop; no part of a stop is ever shown.
"""

from collections.abc import Sequence


class StopStrings:
    """Holds back the longest end of the text that begins a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; returns what may be shown, and whether a stop was reached, after which nothing may be added."""
        text = self._held + text
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max(
            (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
            default=0,
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def finish(self) -> str:
        """What was held back, when the text ends without a stop."""
        text, self._held = self._held, ""
        return text
