"""The LM Evaluation Harness on models of nemotron4_infer, offline.

Invariant: log-likelihoods are those of the token sequence [end-of-sequence, context, continuation], truncated on the
left to the model's context; the whole text is tokenized at once, never its two parts separately.
Source: lm-eval's TemplateLM interface (https://github.com/EleutherAI/lm-evaluation-harness).

Shapes: B windows, T tokens, V vocabulary, N scored tokens of a batch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from nemotron4_data import StreamDecoder
from nemotron4_infer import LoadedModel, SamplingConfig, generate
from nemotron4_infer.likelihood import Progress, document_nll
from nemotron4_infer.windows import Window, batch_windows, window_arrays

LOGITS_PER_BATCH = 2**26
"""Logits per batch: 256 MB in fp32."""

DEFAULT_GENERATED_TOKENS = 256
"""Tokens to generate if a task sets no limit; lm-eval's own default."""


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
    ) -> None:
        """A model for the harness.

        `document_start` none puts no end-of-sequence token in front of a request. Results are kept in the file
        `cache`, so that an evaluation that was stopped continues.
        """
        super().__init__()
        self._model, self._tokenizer, self._device = loaded.model, loaded.tokenizer, loaded.device
        self._window = loaded.model.config.max_sequence_length
        self._progress = progress

    @property
    def eot_token_id(self) -> int:
        """The end-of-sequence id, which precedes every document in training."""
        return self._tokenizer.eos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text, without special tokens."""
        return self._tokenizer.encode(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Split the tokens of the whole text where they first differ from the context's own tokens.

        A token that spans the boundary belongs to the continuation, so the true text is always scored.
        """
        whole, alone = self.tok_encode(context + continuation), self.tok_encode(context)
        split = next((i for i, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b), len(alone))
        split = min(split, len(whole) - 1)
        return whole[:split], whole[split:]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-probability in nats, is it the greedy choice) of each (context, continuation)."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)  # type: ignore[no-any-return]  # lm-eval

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        documents, windows = [], []
        for index, (_, context_ids, continuation_ids) in enumerate(requests):
            # The windows prepend the end-of-sequence token; lm-eval itself does so for an empty context.
            context_ids = context_ids[1:] if context_ids[:1] == [self.eot_token_id] else context_ids
            documents.append(np.array([*context_ids, *continuation_ids], dtype=np.int64))
            end = len(documents[-1])
            if len(continuation_ids) > self._window:
                raise ValueError(
                    f"suite.tasks: a continuation of {len(continuation_ids)} tokens does not fit in the model's "
                    f"context of {self._window}; use a model with a longer context or another task"
                )
            windows.append(Window(index, max(0, end - self._window), len(context_ids), end))
        results = [(0.0, True)] * len(requests)
        done = 0
        for batch in batch_windows(windows, max(1, LOGITS_PER_BATCH // self._model.config.vocab_size)):
            for window, result in zip(batch, self._score(batch, documents), strict=True):
                results[window.document] = result
            done += len(batch)
            if self._progress is not None:
                self._progress(done, len(requests))
        return results

    @torch.inference_mode()
    def _score(self, batch: Sequence[Window], documents: list[Any]) -> list[tuple[float, bool]]:
        inputs_BT, targets_BT, scored_BT = (
            torch.from_numpy(array).to(self._device) for array in window_arrays(batch, documents, self.eot_token_id)
        )
        logits_NV = self._model(inputs_BT)[scored_BT].float()
        targets_N = targets_BT[scored_BT]
        log_p_N = logits_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0].double()
        greedy_N = logits_NV.argmax(-1) == targets_N
        counts = scored_BT.sum(1).tolist()
        return [
            (float(log_p.sum()), bool(greedy.all()))
            for log_p, greedy in zip(log_p_N.split(counts), greedy_N.split(counts), strict=True)
        ]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-probability in nats of each whole text, in windows of which only the last may overlap another."""
        documents = [np.array(self.tok_encode(request.args[0]), dtype=np.int64) for request in requests]
        nll_nats = document_nll(
            self._model,
            documents,
            self.eot_token_id,
            window=self._window,
            stride=self._window,
            device=self._device,
            progress=self._progress,
        )
        return [-float(nats) for nats in nll_nats]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Text that follows each context, up to the first stop string, end of text or token limit."""
        texts = []
        for request in requests:
            context, settings = request.args
            texts.append(self._generate(context, settings))
            if self._progress is not None:
                self._progress(len(texts), len(requests))
        return texts

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        wanted = min(int(settings.get("max_gen_toks", DEFAULT_GENERATED_TOKENS)), self._window - 1)
        sampling = SamplingConfig(
            temperature=float(settings.get("temperature", 1.0)) if settings.get("do_sample") else 0.0,
            top_k=settings.get("top_k"),
            top_p=float(settings.get("top_p", 1.0)),
            max_new_tokens=wanted,
        )
        # As in every lm-eval model, a context that is too long loses its beginning.
        prompt_ids = [self.eot_token_id, *self.tok_encode(context)][-(self._window - wanted) :]
        decoder, text = StreamDecoder(self._tokenizer), ""
        for token in generate(self._model, prompt_ids, sampling, self.eot_token_id, self._tokenizer.vocab_size):
            text += decoder.push(token)
            if any(stop in text for stop in stops):
                return text[: min(text.index(stop) for stop in stops if stop in text)]
        text += decoder.finish()
        return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]
