"""Examples in prompts, drawn so that an item's prompt depends on the seed and the task's data alone.

The harness draws from one generator in the order of the items of a process, so its prompts change with the number of
processes and with a selection of items. Here neither changes them, nor does a limit.
"""

import json
import random
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from lm_eval.api.samplers import ContextSampler
from lm_eval.api.task import ConfigurableTask

Item = Mapping[str, Any]


class DrawnExamples(ContextSampler):  # type: ignore[misc]  # the harness has no types
    """Draws without replacement; `item` is the item whose prompt is made, None for one draw for all items."""

    item: Item | None = None
    seed: int | None = None
    split: str = ""
    """What the message of an error asks for."""

    def set_rnd(self, rnd: int | None) -> "DrawnExamples":
        """The seed, from the harness's `fewshot_random_seed`."""
        self.seed = rnd
        return self

    def sample(self, n: int, eval_doc: Item | None = None, df: object = None, **_: Any) -> list[Item]:
        """n examples. ValueError, one line, if there are fewer.

        `eval_doc`, if given, is left out, and so are examples about the passage that it is about.
        """
        key = "" if self.item is None else json.dumps(self.item, sort_keys=True, ensure_ascii=False)
        order = random.Random(f"{self.seed} {key}").sample(range(len(self.df)), len(self.df))
        apart = (self.df[i] for i in order if eval_doc is None or not _tells(self.df[i], eval_doc))
        drawn = list(islice(apart, n))
        if len(drawn) < n:
            raise ValueError(
                f"its prompts need {n} example{'s' * (n > 1)}, and among {len(order)} items {len(drawn)} can be one;"
                f" give the split {self.split} of the data too"
            )
        return drawn


def _tells(example: Item, item: Item) -> bool:
    """Whether an example shows an item's answer, or its passage."""
    return example == item or ("context" in item and example["context"] == item["context"])


class ExamplesForEachItem(ConfigurableTask):  # type: ignore[misc]  # the harness has no types
    """A task whose examples are drawn for each item anew, from `fewshot_split`.

    Where the data has no such split, they are drawn from the scored items, never the item itself; `shots_from` in the
    task's metadata says which it was. The task's YAML names this class as its `class`.
    """

    drawn_for_each_item = True

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        split = self._shots_split()
        self.fewshot_cfg.split = split  # equal to test_split, it has the harness hand the item to the sampler
        self.config.metadata = {**(self.config.metadata or {}), "shots_from": split}
        self.sampler = DrawnExamples(list(self.fewshot_docs()))
        self.sampler.split = self.config.fewshot_split

    def fewshot_docs(self) -> Sequence[Item]:
        """The examples to draw from."""
        found: Sequence[Item] = self.dataset[self._shots_split()]
        return found

    def fewshot_context(self, doc: Item, num_fewshot: int, **options: Any) -> Any:
        """The prompt of an item."""
        self.sampler.item = doc if self.drawn_for_each_item else None
        return super().fewshot_context(doc, num_fewshot, **options)

    def _shots_split(self) -> str:
        asked: str = self.config.fewshot_split
        scored: str = self.config.test_split
        return asked if asked in self.dataset and len(self.dataset[asked]) else scored


class ExamplesForAllItems(ExamplesForEachItem):
    """The same with one draw for all items, so that their prompts begin alike and are computed once."""

    drawn_for_each_item = False
