"""The LM Evaluation Harness's view of a model: likelihoods by packing.py and scoring.py, texts by the engine.

Invariant: a text is split into context and continuation as the harness's own models do, and no result depends on what
else is asked, on the order, on the number of processes, or on whether it was computed now or before a kill. A request
that cannot be answered does not end the run: it is counted in `failures`, and scores as badly as can be.
Source: lm-eval's TemplateLM interface (https://github.com/EleutherAI/lm-evaluation-harness).
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string

from nemotron4_common.rules import require
from nemotron4_eval.harness.decoding import Generated, GenerationSettings, Prompt
from nemotron4_eval.harness.packing import ScoredSequence, plan_batches
from nemotron4_eval.harness.request_cache import RequestCache, model_digest
from nemotron4_eval.harness.scoring import BATCH_TOKENS, Score
from nemotron4_eval.harness.workers import ModelSource, Processes, ThisProcess, Workers
from nemotron4_infer import LoadedModel
from nemotron4_infer.engine.build import default_device
from nemotron4_infer.engine_config import Quantisation
from nemotron4_infer.likelihood import Progress
from nemotron4_infer.weights.engine_weights import from_transformer
from nemotron4_infer.weights.load import fingerprint
from nemotron4_model import DType, load_config

FAILED: Score = (-math.inf, False)

DocumentStart = Literal["eos", "none"]


class EngineLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no annotations
    """A loaded model as lm-eval sees it."""

    def __init__(
        self,
        loaded: LoadedModel,
        progress: Progress | None = None,
        *,
        document_start: DocumentStart = "eos",
        cache: Path | None = None,
        seed: int = 0,
    ) -> None:
        """A model for the harness.

        `document_start` none puts no end-of-sequence token in front of a request, except where nothing else precedes
        what is scored. Results are kept in the file `cache`, so that an evaluation that was stopped continues. `seed`
        is that of samples.
        """
        weights = from_transformer(loaded.model)
        self._start(
            ThisProcess(weights, loaded.tokenizer),
            loaded.tokenizer,
            loaded.model.config.max_sequence_length,
            device=loaded.device.type,
            progress=progress,
            document_start=document_start,
            cache=None if cache is None else RequestCache(cache, model_digest(loaded)),
            seed=seed,
        )

    @classmethod
    def from_directory(
        cls,
        model_dir: str,
        progress: Progress | None = None,
        *,
        dtype: DType | None = None,
        quantization: Quantisation | None = None,
        processes: int = 1,
        document_start: DocumentStart = "eos",
        cache: Path | None = None,
        seed: int = 0,
    ) -> Self:
        """The model of a directory, whose weights may be quantised, in `processes` processes.

        ValueError, one line, if there is no such model.
        """
        require(processes >= 1, "processes", processes, "must be at least 1")
        source, device = ModelSource.check(model_dir, dtype, quantization, processes), default_device()
        lm, path = cls.__new__(cls), Path(model_dir)
        lm._start(
            source.load(device) if processes == 1 else Processes(source),
            source.tokenizer(),
            load_config(path).max_sequence_length,
            device=device.type,
            progress=progress,
            document_start=document_start,
            cache=None if cache is None else RequestCache(cache, fingerprint(path, source.dtype, source.quantization)),
            seed=seed,
        )
        return lm

    def _start(
        self,
        workers: Workers,
        tokenizer: Any,
        window: int,
        *,
        device: str,
        progress: Progress | None,
        document_start: DocumentStart,
        cache: RequestCache | None,
        seed: int,
    ) -> None:
        super().__init__()
        require(document_start in ("eos", "none"), "document_start", document_start, "must be eos or none")
        self._workers, self._tokenizer, self._window, self._progress = workers, tokenizer, window, progress
        self._batch_tokens = BATCH_TOKENS[device]
        self._starts_with_eos, self._cache, self._seed = document_start == "eos", cache, seed
        # The options of a question have one context.
        self._encode = lru_cache(maxsize=4)(tokenizer.encode)
        self.cuts: set[str] = set()
        """Of requests whose prompt lost its beginning, their `request_name`."""
        self.failures: dict[str, str] = {}
        """Of requests that could not be answered: `request_name` to the reason, one line."""

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """From the harness's --model_args: `pretrained=DIR` and the settings of `from_directory`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """As `create_from_arg_string`; the harness's batch size and device are not used."""
        settings = dict(arg_dict)
        known = "pretrained, dtype, quantization, processes, document_start, cache, seed"
        unknown = next((name for name in settings if name not in known.split(", ")), None)
        require(unknown is None, f"model_args.{unknown}", settings.get(unknown or ""), f"is not one of {known}")
        require("pretrained" in settings, "model_args.pretrained", "", "must be a model directory")
        if "document_start" in settings:  # the harness reads none as None
            settings["document_start"] = settings["document_start"] or "none"
        for name, kind in (("dtype", DType), ("quantization", Quantisation), ("cache", Path)):
            if settings.get(name) is not None:
                try:
                    settings[name] = kind(settings[name])
                except ValueError as error:
                    raise ValueError(f"model_args.{name} ({settings[name]}): {error}") from error
        return cls.from_directory(str(settings.pop("pretrained")), **settings)

    @property
    def eot_token_id(self) -> int:
        """The end-of-sequence id, which precedes every document in training."""
        return int(self._tokenizer.eos_id)

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        return self._window

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text, without special tokens."""
        return list(self._encode(string))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-probability in nats, is it the greedy choice) of each (context, continuation).

        (-inf, False) for one that cannot be scored, which is then in `failures`.
        """
        asked = [request for request in requests if request.args != ("", "")]  # TemplateLM would stop at nothing
        scores = iter(super().loglikelihood(asked, disable_tqdm=disable_tqdm))
        return [self._fail(each.args, _EMPTY) if each.args == ("", "") else next(scores) for each in requests]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        results: list[Score] = [FAILED] * len(requests)
        sequences, owners = [], []
        for index, (texts, context_ids, continuation_ids) in enumerate(requests):
            if not continuation_ids:
                self._fail(texts, _EMPTY)
            elif len(continuation_ids) > self._window:
                size = f"a continuation of {len(continuation_ids)} tokens"
                self._fail(texts, f"{size} does not fit in the model's context of {self._window}")
            else:
                token_ids = [*self._begun(context_ids), *continuation_ids]
                if len(token_ids) > self._window + 1:
                    self.cuts.add(request_name(texts))
                sequences.append(self._sequence(token_ids, len(continuation_ids)))
                owners.append(index)
        for done, (index, score) in enumerate(self._scored(sequences), 1):
            texts = requests[owners[index]][0]
            results[owners[index]] = score if math.isfinite(score[0]) else self._fail(texts, _NOT_FINITE)
            self.cache_hook.add_partial("loglikelihood", texts, results[owners[index]])
            self._report(done, len(sequences))
        return results

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-probability in nats of each whole text, in lm-eval's windows: the first begins with end-of-sequence."""
        totals, left, sequences, owners = [0.0] * len(requests), [0] * len(requests), [], []
        for index, request in enumerate(requests):
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.eot_token_id, max_seq_len=self._window, context_len=1
            )
            for context_ids, continuation_ids in map(make_disjoint_window, windows):
                sequences.append(self._sequence([*context_ids, *continuation_ids], len(continuation_ids)))
                owners.append(index)
                left[index] += 1
        for done, (index, (log_p, _)) in enumerate(self._scored(sequences), 1):
            owner = owners[index]
            totals[owner] += log_p
            left[owner] -= 1
            if not left[owner]:
                if not math.isfinite(totals[owner]):
                    totals[owner], _ = self._fail(requests[owner].args, _NOT_FINITE)
                self.cache_hook.add_partial("loglikelihood_rolling", requests[owner].args, totals[owner])
            self._report(done, len(sequences))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Text that follows each context, up to the first stop string, end of text or token limit.

        Repeated requests are equal texts if greedy, else further samples. One that fails is in `failures`, its text
        empty.
        """
        texts, seen = [""] * len(requests), Counter[str]()
        owners: dict[str, list[int]] = {}
        prompts: list[Prompt] = []
        for index, request in enumerate(requests):
            place = json.dumps([request.task_name, request.doc_id, request_name(request.args)])
            prompt = self._prompt(request.args, f"{place} {seen[place]}")
            seen[place] += 1
            same = owners.setdefault(repr(prompt), [])
            if not same:
                prompts.append(prompt)
            same.append(index)
        groups, done = list(owners.values()), 0
        for number, generated in self._generated(prompts):
            for index in groups[number]:
                args = requests[index].args
                texts[index] = generated.text
                if generated.failure is not None:
                    self._fail(args, generated.failure)
                elif prompts[number].sampling.temperature == 0:
                    self.cache_hook.add_partial("generate_until", args, generated.text)
            done += len(groups[number])
            self._report(done, len(requests))
        return texts

    def _begun(self, context_ids: list[int]) -> list[int]:
        """A context with what precedes it. The harness itself begins an empty one with end-of-sequence."""
        eos = self.eot_token_id
        is_begun = context_ids[:1] == [eos] or (context_ids and not self._starts_with_eos)
        return context_ids if is_begun else [eos, *context_ids]

    def _sequence(self, token_ids: list[int], num_targets: int) -> ScoredSequence:
        """Without the beginning that is too long for the model."""
        array = np.array(token_ids[-(self._window + 1) :], dtype=np.int64)
        return ScoredSequence(array[:-1], array[-num_targets:])

    def _scored(self, sequences: Sequence[ScoredSequence]) -> Iterator[tuple[int, Score]]:
        """(index, score) of each, those first whose results are kept."""
        missing, keys = [], {}
        for index, sequence in enumerate(sequences):
            if self._cache is not None:
                targets = len(sequence.target_ids)
                ids = [*sequence.token_ids.tolist(), int(sequence.target_ids[-1])]
                keys[index] = self._cache.key("score", ids, targets)
                if (found := self._cache.get(keys[index])) is not None:
                    yield index, (float(found[0]), bool(found[1]))
                    continue
            missing.append(index)
        if not missing:
            return
        batches = plan_batches([sequences[index] for index in missing], self._batch_tokens)
        with self._kept():
            for batch, scores in zip(batches, self._workers.score(batches), strict=True):
                for number, score in zip(batch.sequences, scores, strict=True):
                    index = missing[number]
                    if self._cache is not None and math.isfinite(score[0]):
                        self._cache.put(keys[index], score)
                    yield index, score

    def _generated(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generated]]:
        """(index, text) of each, those first whose results are kept."""
        missing, keys = [], {}
        for index, prompt in enumerate(prompts):
            if self._cache is not None:
                settings = [vars(prompt.sampling), prompt.stops]
                keys[index] = self._cache.key("generate", prompt.token_ids, settings)
                if (found := self._cache.get(keys[index])) is not None:
                    yield index, Generated(found)
                    continue
            missing.append(index)
        if not missing:
            return
        with self._kept():
            for number, generated in self._workers.generate([prompts[index] for index in missing]):
                index = missing[number]
                if self._cache is not None and generated.failure is None:
                    self._cache.put(keys[index], generated.text)
                yield index, generated

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Write, at the end or after a fault, what was kept."""
        try:
            yield
        finally:
            if self._cache is not None:
                self._cache.write()

    def _prompt(self, args: tuple[str, dict[str, Any]], place: str) -> Prompt:
        """A request for the engine. Samples are seeded by `place`, so that they do not depend on what else is asked."""
        context, given = args
        settings = GenerationSettings.read(given)
        token_ids = self._begun(self.tok_encode(context))
        # A prompt that leaves too little room loses its beginning, as in every lm-eval model, but keeps half the
        # context however many tokens are wanted: most tasks stop long before their limit.
        room = max(self._window - len(token_ids), self._window // 2)
        wanted = max(1, min(settings.max_tokens, room))
        if len(token_ids) + wanted > self._window:
            self.cuts.add(request_name(args))
            token_ids = token_ids[-(self._window - wanted) :]
        return Prompt(tuple(token_ids), settings.sampling(wanted, f"{self._seed} {place}"), settings.stops)

    def _fail(self, args: Sequence[Any], reason: str) -> Score:
        self.failures[request_name(args)] = reason
        return FAILED

    def _report(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)


_EMPTY = "the continuation has no tokens"
_NOT_FINITE = "the model gives no finite probability"


def request_name(args: Sequence[Any]) -> str:
    """Names a request by its arguments, as the harness records them with an item."""
    return hashlib.sha256(json.dumps(args, sort_keys=True, default=str).encode()).hexdigest()
