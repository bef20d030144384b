"""What the server measures, for Prometheus, under the names that dashboards made for vLLM know.

Invariants: one registry for each app; pages_free + pages_cached + pages_running is constant, so a leak shows.
"""

import collections
import itertools
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from nemotron4_infer.engine.loop import EngineThread
from nemotron4_infer.engine.request import Delta
from nemotron4_infer.engine.statistics import STEP_TOKENS, Statistics
from nemotron4_infer.serve_job import MetricNames

_PREFIXES = {MetricNames.nemotron4: "nemotron4_", MetricNames.vllm: "vllm:"}
_SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
_LONG_SECONDS = (0.1, 0.3, 0.5, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 60, 120, 240, 480, 960)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_HISTOGRAMS = {
    "time_to_first_token_seconds": ("From a request's arrival to its first token", _SHORT_SECONDS),
    "inter_token_latency_seconds": ("Between a token and the one before it", _SHORT_SECONDS),
    "e2e_request_latency_seconds": ("From a request's arrival to the end of its text", _LONG_SECONDS),
    "request_queue_time_seconds": ("From a request's arrival to the first step that computed it", _LONG_SECONDS),
    "request_prefill_time_seconds": ("From the first step that computed a request to its first token", _LONG_SECONDS),
    "request_decode_time_seconds": ("From the first token of a text to its end", _LONG_SECONDS),
    "request_prompt_tokens": ("Tokens of a prompt", _TOKENS),
    "request_generation_tokens": ("Tokens of a generated text", _TOKENS),
}


class Metrics:
    """All metrics of one app."""

    def __init__(self, thread: EngineThread, names: MetricNames, model_name: str) -> None:
        self.registry, self._prefix, self._model_name = CollectorRegistry(), _PREFIXES[names], model_name
        self._histograms = {
            name: Histogram(self._prefix + name, text, ["model_name"], registry=self.registry, buckets=buckets).labels(
                model_name
            )
            for name, (text, buckets) in _HISTOGRAMS.items()
        }
        name, labels = self._prefix + "request_success", ["model_name", "finished_reason"]
        self._ended = Counter(name, "Texts that ended, by why", labels, registry=self.registry)
        for reason in ("stop", "length", "abort", "error"):
            self._ended.labels(model_name, reason)
        self.registry.register(_EngineCollector(thread, self._prefix, model_name))

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        self._histograms[name].observe(value)

    def count_end(self, reason: str) -> None:
        """Count a text that ended."""
        self._ended.labels(self._model_name, reason).inc()

    def text(self) -> bytes:
        """All of them in Prometheus's text format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """The engine's own counters, read when asked."""

    def __init__(self, thread: EngineThread, prefix: str, model_name: str) -> None:
        self._thread, self._prefix, self._model_name = thread, prefix, model_name

    def collect(self) -> Iterator[Metric]:
        """Read the engine once."""
        now, health, found = time.time(), self._thread.health(), self._thread.statistics()
        pages = found.pages_free + found.pages_cached + found.pages_running
        gauges = {
            "num_requests_running": ("Texts that are computed", found.running),
            "num_requests_waiting": ("Texts that wait", found.waiting),
            "num_requests_waiting_for_pages": ("Texts that wait because the cache is full", found.waiting_for_pages),
            "kv_cache_usage_perc": (
                "Share of the cache that running texts hold, 0 to 1",
                found.pages_running / max(1, pages),
            ),
            "pages_free": ("Pages of the cache that hold nothing", found.pages_free),
            "pages_cached": ("Pages of the cache that hold prompts which no running text uses", found.pages_cached),
            "pages_running": ("Pages of the cache that running texts hold", found.pages_running),
            "engine_last_step_timestamp_seconds": (
                "When the engine last ended a step",
                now - health.seconds_since_step,
            ),
        }
        counters = {
            "prompt_tokens": ("Tokens of prompts", found.prompt_tokens),
            "generation_tokens": ("Tokens that were generated", found.generated_tokens),
            "prefix_cache_queries": (
                "Tokens of prompts that were looked for in the cache",
                found.prefix_queried_tokens,
            ),
            "prefix_cache_hits": ("Tokens of prompts that were found in the cache", found.prefix_hit_tokens),
            "num_preemptions": ("Texts that were computed again; never", 0),
            "spec_decode_num_draft_tokens": ("Tokens that were guessed", found.drafted_tokens),
            "spec_decode_num_accepted_tokens": ("Guessed tokens that were right", found.accepted_tokens),
        }
        for name, (text, value) in gauges.items():
            yield self._one(GaugeMetricFamily, name, text, value)
        for name, (text, value) in counters.items():
            yield self._one(CounterMetricFamily, name, text, value)
        page_tokens = self._thread.engine.runner.page_tokens
        info = GaugeMetricFamily(
            self._prefix + "cache_config_info", "The cache", labels=["model_name", "block_size", "num_gpu_blocks"]
        )
        info.add_metric([self._model_name, str(page_tokens), str(pages)], 1)
        yield info
        yield self._step_sizes(found)

    def _step_sizes(self, found: Statistics) -> Metric:
        counts = zip([*map(str, STEP_TOKENS), "+Inf"], itertools.accumulate(found.step_sizes), strict=True)
        text = "Tokens that a step of the engine computed"
        sizes = HistogramMetricFamily(self._prefix + "iteration_tokens_total", text, labels=["model_name"])
        sizes.add_metric([self._model_name], [*counts], found.computed_tokens)
        return sizes

    def _one(
        self, family: type[GaugeMetricFamily] | type[CounterMetricFamily], name: str, text: str, value: float
    ) -> Metric:
        metric = family(self._prefix + name, text, labels=["model_name"])
        metric.add_metric([self._model_name], value)
        return metric


class RequestTimes:
    """When the texts of one HTTP request began, went on and ended."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._started = metrics, time.monotonic()
        self._submitted = self._started
        self._queued: dict[tuple[int, int], float] = {}
        self._first: dict[tuple[int, int], float] = {}
        self._last: dict[tuple[int, int], float] = {}
        self._counts: dict[tuple[int, int], int] = {}
        self.prompt_tokens = self.generated_tokens = 0
        self.reasons: list[str] = []

    def open(self, prompt_lengths: list[int], choices: int) -> None:
        """The engine is about to take the requests."""
        self._submitted = time.monotonic()
        self.prompt_tokens = sum(prompt_lengths)
        for number, length in enumerate(prompt_lengths):
            self._metrics.observe("request_prompt_tokens", length)
            self._counts.update({(number, choice): 0 for choice in range(choices)})

    def observe(self, number: int, delta: Delta) -> None:
        """A Delta of prompt `number` has arrived."""
        key, now, count = (number, delta.choice), time.monotonic(), len(delta.tokens)
        if key not in self._counts:  # closed before
            return
        if delta.queued_seconds is not None:
            self._queued[key] = delta.queued_seconds
            self._metrics.observe("request_queue_time_seconds", delta.queued_seconds)
        if count:
            self.generated_tokens += count
            self._counts[key] += count
            if key in self._first:
                for _ in range(count):
                    self._metrics.observe("inter_token_latency_seconds", (now - self._last[key]) / count)
            else:
                self._first[key] = now
                self._metrics.observe("time_to_first_token_seconds", now - self._started)
                prefill_seconds = now - self._submitted - self._queued.get(key, 0.0)
                self._metrics.observe("request_prefill_time_seconds", prefill_seconds)
            self._last[key] = now
        if delta.finish is not None:
            self._end(key, delta.finish.value, now)

    def close(self) -> None:
        """Whatever has not ended was aborted."""
        for key in list(self._counts):
            self._end(key, "abort", time.monotonic())

    def line(self) -> str:
        """What came of the request, for the log."""
        reasons = " ".join(f"{reason}={count}" for reason, count in sorted(collections.Counter(self.reasons).items()))
        counts = f"prompt_tokens={self.prompt_tokens} generated_tokens={self.generated_tokens}"
        return f"{counts} {reasons}"

    def _end(self, key: tuple[int, int], reason: str, now: float) -> None:
        count = self._counts.pop(key)
        self.reasons.append(reason)
        self._metrics.count_end("abort" if reason == "cancelled" else reason)
        if reason in ("stop", "length"):
            self._metrics.observe("e2e_request_latency_seconds", now - self._started)
            self._metrics.observe("request_decode_time_seconds", now - self._first.get(key, now))
            self._metrics.observe("request_generation_tokens", count)
