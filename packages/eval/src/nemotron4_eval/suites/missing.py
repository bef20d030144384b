"""The list of what is missing, shortened for people: tasks that lack the same are one entry."""

from collections.abc import Sequence
from dataclasses import dataclass

from nemotron4_eval.suites.results import Missing


@dataclass(frozen=True)
class MissingGroup:
    """Tasks that the same command helps, or that lack the same."""

    kind: str
    tasks: list[str]
    tables: list[int]
    message: str
    """What the first lacks, without the command, and what the others do."""
    command: str

    def shown_tasks(self, most: int) -> str:
        """Names, the first `most` of them where there are more than that and one."""
        names = self.tasks if len(self.tasks) <= most + 1 else self.tasks[:most]
        more = len(self.tasks) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")


def grouped(missing: Sequence[Missing]) -> list[MissingGroup]:
    """The entries, in the order of their first tasks."""
    groups: dict[tuple[str, str], list[Missing]] = {}
    for entry in missing:
        # Without a command, tasks are together if they lack the very same, or context for the same tables.
        same = entry["command"] or (str(entry["tables"]) if "tokens" in entry else entry["message"])
        groups.setdefault((entry["kind"], same), []).append(entry)
    return [
        MissingGroup(
            kind=kind,
            tasks=list(dict.fromkeys(entry["task"] for entry in entries)),
            tables=sorted({number for entry in entries for number in entry["tables"]}),
            message=_message(entries),
            command=entries[0]["command"],
        )
        for (kind, _), entries in groups.items()
    ]


def _message(entries: Sequence[Missing]) -> str:
    messages = list(dict.fromkeys(_without_command(entry) for entry in entries))
    if len(messages) == 1:
        return messages[0]
    if tokens := [entry["tokens"] for entry in entries if "tokens" in entry]:
        return f"{messages[0]} (others {min(tokens):,} to {max(tokens):,})"
    return f"{messages[0]} (and {len(messages) - 1} like it)"


def _without_command(entry: Missing) -> str:
    before, command, _ = entry["message"].partition(entry["command"] or "\0")
    return before.rstrip(" `;") if command else before
