"""Texts that continue prompts, many at once, by the engine.

Invariant: a text is what the engine generates for its prompt and settings alone, cut before the first stop string; a
request that fails leaves the others as they are.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from nemotron4_common.rules import require
from nemotron4_data import Tokenizer
from nemotron4_infer.engine.core import Engine
from nemotron4_infer.engine.request import Request
from nemotron4_infer.engine.runner import make_runner
from nemotron4_infer.engine_config import EngineConfig
from nemotron4_infer.plan import free_host_bytes
from nemotron4_infer.sampling.config import MAX_STOP_CHARACTERS, MAX_STOPS, SamplingConfig
from nemotron4_infer.weights.engine_weights import EngineWeights

MAX_RUNNING = {"cpu": 64, "cuda": 256}
"""Prompts that are continued at once."""


DEFAULT_GENERATED_TOKENS = 256
"""Tokens to generate if a task sets no limit; lm-eval's own default."""

_PASSED_ON = ("top_k", "top_p", "min_p", "repetition_penalty")
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "num_beams", "seed", *_PASSED_ON}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationSettings:
    """A task's `generation_kwargs`."""

    stops: tuple[str, ...]
    max_tokens: int
    temperature: float
    """0 is greedy."""
    seed: int | None
    passed_on: dict[str, Any]
    """Fields of SamplingConfig."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """ValueError, one line, for what would give other texts than asked; what is not known is logged once."""
        from lm_eval.models.utils import normalize_gen_kwargs  # imported here: processes that only compute do without

        settings = normalize_gen_kwargs(dict(given), DEFAULT_GENERATED_TOKENS)
        beams, rule = settings.get("num_beams"), "must be 1, since beams are not searched; leave it out"
        require(beams in (None, 1), "generation_kwargs.num_beams", beams, rule)
        for name in sorted(settings.keys() - _KNOWN):
            _warn_once(f"generation_kwargs.{name} is not used")
        passed_on = {name: settings[name] for name in _PASSED_ON if settings.get(name) is not None}
        if passed_on.get("top_k") == 0:  # off, in Hugging Face's settings
            del passed_on["top_k"]
        return cls(
            stops=tuple(stop for stop in settings["until"] if stop),
            max_tokens=settings["max_gen_toks"],
            temperature=float(given.get("temperature", 1.0)) if settings["do_sample"] else 0.0,
            seed=settings.get("seed"),
            passed_on=passed_on,
        )

    def sampling(self, max_new_tokens: int, place: str) -> SamplingConfig:
        """For the engine. A sample is seeded by `place`, so that it does not depend on what else is asked."""
        digest = hashlib.sha256(f"{self.seed} {place}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") >> 1 if self.temperature else 0
        return SamplingConfig(temperature=self.temperature, seed=seed, max_new_tokens=max_new_tokens, **self.passed_on)


@lru_cache
def _warn_once(message: str) -> None:
    _log.warning(message)


@dataclass(frozen=True)
class Prompt:
    """A prompt and how to continue it."""

    token_ids: tuple[int, ...]
    sampling: SamplingConfig
    """Without stop strings."""
    stops: tuple[str, ...]
    """Texts before the first of which the continuation is cut: any number of any length."""


@dataclass(frozen=True)
class Generated:
    """What came of a prompt."""

    text: str
    failure: str | None = None
    """One line, if it failed; the text is then empty."""


class Generator:
    """An engine, and what is asked of it."""

    def __init__(self, weights: EngineWeights, tokenizer: Tokenizer, *, processes: int = 1) -> None:
        """`processes` share the memory of this machine's CPUs."""
        running, model = MAX_RUNNING[weights.device.type], weights.config
        cache_tokens = None
        if weights.device.type == "cpu":
            fit = free_host_bytes() // (2 * processes * model.key_value_bytes_per_token(weights.dtype.itemsize))
            cache_tokens = max(model.max_sequence_length, min(fit, running * model.max_sequence_length))
        config = EngineConfig(max_running=running, max_waiting=running, cache_tokens=cache_tokens)
        self._engine = Engine(make_runner(weights, config), tokenizer, config)
        self._most_open = 2 * running

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generated]]:
        """(index, text) of each prompt, as they end; those that begin alike are computed one after another."""
        order = sorted(range(len(prompts)), key=lambda index: prompts[index].token_ids, reverse=True)
        texts: dict[int, list[str]] = {}
        indices: dict[int, int] = {}
        while order or indices:
            while order and len(indices) < self._most_open:
                index = order.pop()
                try:
                    request = _request(prompts[index])
                    self._engine.check(request)
                except ValueError as error:  # it can never run; the others can
                    yield index, Generated("", str(error))
                    continue
                number = self._engine.add(request)
                indices[number], texts[number] = index, []
            for delta in self._engine.step() if indices else ():
                texts[delta.request].append(delta.text)
                if delta.finish is not None:
                    index, text = indices.pop(delta.request), "".join(texts.pop(delta.request))
                    failed = delta.error is not None
                    yield index, Generated("" if failed else cut(text, prompts[index].stops), delta.error)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


def _request(prompt: Prompt) -> Request:
    """The engine takes no more than MAX_STOPS stops, and no long ones; what they would have ended is cut later."""
    stops = [stop for stop in prompt.stops if 0 < len(stop) <= MAX_STOP_CHARACTERS][:MAX_STOPS]
    sampling = SamplingConfig(**{**vars(prompt.sampling), "stop": stops})
    return Request(prompt_ids=prompt.token_ids, sampling=sampling)
