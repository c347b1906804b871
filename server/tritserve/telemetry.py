"""Every metric the server exports, with what it means and where its clock starts and stops; and the line per finished request.

Clocks are monotonic seconds. *Received* is when the last byte of a request's body arrived; a token counts when its event reaches the
HTTP layer, before it is written to the socket. Known label sets exist from the start, at 0. What no code path can move yet is not
exported: a flat zero would read as "never happened".
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from tritserve.energy import package_joules
from tritserve.exposition import Encoder
from tritserve.logs import with_fields
from tritserve.machine import cpu_quota, cpu_throttled_seconds
from tritserve.pool.observer import PoolObserver, RestartReason, Stage
from tritserve.protocol import GRAMMAR_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client import Metric

    from tritserve.api.record import Endpoint, RequestRecord
    from tritserve.pool.generation import PoolStatus
    from tritserve.protocol import GrammarKind, Hello, StepStats

logger = logging.getLogger(__name__)
PREFIX = "tritserve_"

ENDPOINTS = ("chat", "completions", "messages", "responses")
OUTCOMES = ("stop", "length", "tool_calls", "cancelled", "timeout", "error", "rejected")
REJECT_REASONS = ("queue_full", "tokens_full", "draining", "too_long", "invalid")
STEP_KINDS = ("prefill", "decode", "mixed")
HEAD_READS = ("candidates", "whole")
PROMPT_SOURCES = ("computed", "cached")

# fmt: off
WAIT_BUCKETS = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 320, 640)
STEP_BUCKETS = (.001, .0025, .005, .0075, .01, .015, .02, .025, .035, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5)
MASK_BUCKETS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, .001, .0025, .005, .01, .025, .05, .1, .25)
# fmt: on
LONG_BUCKETS = tuple(0.01 * 2**i for i in range(18))
SIZE_BUCKETS = tuple(2**i for i in range(14))
_MAX_BUCKETS = 25

_M = TypeVar("_M", bound=MetricWrapperBase)


class Telemetry(PoolObserver):
    """The metrics of one server. Is the pool's ``PoolObserver`` and implements the routes' ``GenerationTelemetry``.

    Every method is synchronous, quick and raises nothing; all run in the event loop's thread.
    """

    def __init__(
        self,
        *,
        model: str,
        context: int,
        queue_limit: int,
        weights_sha256: str = "",
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make every metric, at 0. ``model`` is the served name, ``context`` the most tokens the model can see; ``root`` (the file system
        that knows the control group) and ``clock`` are for tests."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter and histogram that nobody reads
        self.registry = CollectorRegistry()
        self._encoder = Encoder(self.registry)
        self._model = model
        self._queue_limit = queue_limit
        self._weights_sha256 = weights_sha256
        self._root = root
        self._version = version("tritserve")
        self._quota = cpu_quota(root)  # what the threads were sized by; read once, as they are
        self._clock = clock
        self._step_ended: dict[int, float] = {}
        tokens = tuple(2**i for i in range(min(_MAX_BUCKETS, max(1, context - 1).bit_length() + 1)))
        counter, gauge, histogram, known = self._counter, self._gauge, self._histogram, self._known

        # requests
        self._http_requests = counter("http_requests_total", "Answers, by route template.", "route", "method", "code")
        self._requests = known(
            counter("requests_total", "Generation requests that are over, each once.", "endpoint", "outcome"),
            *(ENDPOINTS, OUTCOMES),
        )
        self._rejected = known(
            counter("requests_rejected_total", "Generation requests refused before any token.", "reason"),
            REJECT_REASONS,
        )
        # Not made beforehand: a histogram of nothing has no quantiles, and these would be two thirds of a scrape.
        self._duration = histogram(
            "request_duration_seconds", LONG_BUCKETS, "Received to the end of the answer.", "endpoint", "outcome"
        )
        self._ttft = known(
            histogram("time_to_first_token_seconds", WAIT_BUCKETS, "Received to the first token.", "endpoint"),
            ENDPOINTS,
        )
        self._inter_token = histogram(
            "inter_token_seconds", STEP_BUCKETS, "Each gap between two tokens of one choice."
        ).labels(model)
        self._per_token = histogram(
            "time_per_output_token_seconds",
            STEP_BUCKETS,
            "Mean (last - first) / (n - 1) of a request's choices, n >= 2.",
        ).labels(model)
        self._prompt_size = histogram("request_prompt_tokens", tokens, "Prompt tokens of a request.").labels(model)
        self._generated_size = histogram(
            "request_generated_tokens", tokens, "Tokens generated for a request, over its choices."
        ).labels(model)
        self._stall = histogram("stream_stall_seconds", WAIT_BUCKETS, "Each wait for a slow reader.").labels(model)

        # phases of a choice
        self._queue = histogram("queue_seconds", WAIT_BUCKETS, "Submission to its first step.").labels(model)
        self._prefill = histogram("prefill_seconds", WAIT_BUCKETS, "Its first step to its first token.").labels(model)
        self._decode = histogram("decode_seconds", LONG_BUCKETS, "Its first token to its end.").labels(model)
        self._cancelled = known(
            counter("cancelled_total", "Choices aborted, by how far they were.", "stage"), get_args(Stage)
        )

        # tokens
        self._prompt_tokens = known(
            counter("prompt_tokens_total", "Prompt tokens of admitted choices, by source.", "source"), PROMPT_SOURCES
        )
        self._generated = counter("generated_tokens_total", "Tokens generated.").labels(model)
        self._lookups = counter("prefix_cache_lookup_tokens_total", "Prompt tokens looked up.").labels(model)
        self._hits = counter("prefix_cache_hit_tokens_total", "Prompt tokens found in the prefix cache.").labels(model)
        self._evictions = counter("prefix_cache_evictions_total", "Cached blocks given up for others.").labels(model)

        # engine
        self._screened = known(
            counter(
                "screened_tokens_total", "Tokens chosen by bounds, by what was read of the head's low plane.", "read"
            ),
            HEAD_READS,
        )
        self._head_candidates = counter(
            "screened_candidates_total", "Candidates of such tokens looked up in the low plane one by one."
        ).labels(model)
        self._step = known(
            histogram("engine_step_seconds", STEP_BUCKETS, "One model step, by what was in it.", "kind"), STEP_KINDS
        )
        self._batch_size = histogram("engine_batch_size", SIZE_BUCKETS, "Sequences running in a step.").labels(model)
        self._step_tokens = histogram("engine_step_tokens", SIZE_BUCKETS, "Rows of a step.").labels(model)
        self._busy = counter("engine_busy_seconds_total", "Time in steps.", "worker")
        self._idle = counter(
            "engine_idle_seconds_total", "Time between steps, counted when the later one ends.", "worker"
        )
        self._last_step = gauge("engine_last_step_timestamp_seconds", "When a step last ended, Unix time.", "worker")
        self._restarts = known(counter("worker_restarts_total", "Workers replaced.", "reason"), get_args(RestartReason))
        self._resumed = known(
            counter("requests_resumed_total", "Choices that go on after a worker's death.", "reason"),
            get_args(RestartReason),
        )
        self._faults = known(
            counter("numeric_faults_total", "Values that were not finite; must stay 0.", "kind"), ("logits",)
        )

        # grammars
        self._grammar_compile = known(
            histogram("grammar_compile_seconds", STEP_BUCKETS, "Each compilation in a worker.", "kind"), GRAMMAR_KINDS
        )
        self._grammar_hits = known(
            counter("grammar_cache_hits_total", "Grammars of requests that had been checked before.", "kind"),
            GRAMMAR_KINDS,
        )
        self._grammar_misses = known(
            counter("grammar_cache_misses_total", "Grammars of requests that had to be checked.", "kind"),
            GRAMMAR_KINDS,
        )
        self._grammar_rejected = known(
            counter("grammar_rejected_total", "Grammars of requests that were refused.", "kind"), GRAMMAR_KINDS
        )
        self._grammar_mask = histogram(
            "grammar_mask_seconds", MASK_BUCKETS, "Each mask of allowed tokens, computed beside the forward pass."
        ).labels(model)
        self._load = gauge("model_load_seconds", "Loading and self-test of the worker that came up last.").labels(model)
        self._snapshot = _Snapshot(self._read_snapshot)
        self.registry.register(self._snapshot)

    # --- making -----------------------------------------------------------------------------------------------------

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, ("model", *labels), registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, ("model", *labels), registry=self.registry)

    def _histogram(self, name: str, buckets: Sequence[float], text: str, *labels: str) -> Histogram:
        return Histogram(PREFIX + name, text, ("model", *labels), registry=self.registry, buckets=buckets)

    def _known(self, metric: _M, *values: Sequence[str]) -> _M:
        """Let every combination of the labels' values exist."""
        for combination in itertools.product(*values):
            metric.labels(self._model, *combination)
        return metric

    def _read_snapshot(self, status: PoolStatus) -> Iterator[Metric]:
        """Yield what is read when asked: the pool, the control group, the machine."""

        def gauge(name: str, text: str, value: float, **labels: str) -> GaugeMetricFamily:
            family = GaugeMetricFamily(PREFIX + name, text, labels=("model", *labels))
            family.add_metric((self._model, *labels.values()), value)
            return family

        yield gauge("requests_running", "Choices that have been in a step.", status.num_running)
        yield gauge("requests_waiting", "Choices that wait for their first step.", status.num_waiting)
        yield gauge("oldest_waiting_seconds", "Age of the oldest of them.", status.oldest_waiting_seconds)
        yield gauge("queue_limit", "Most choices waiting or running.", self._queue_limit)
        yield gauge("kv_cache_used_bytes", "KV memory of blocks in use.", status.kv_used_bytes)
        yield gauge("kv_cache_capacity_bytes", "KV memory there is.", status.kv_capacity_bytes)
        yield gauge("threads", "Compute threads of all workers.", status.num_threads)
        yield gauge("ready", "1 while requests are served.", status.ready)
        yield gauge("draining", "1 from the first signal to stop.", status.draining)
        if status.isa:
            build = {"version": self._version, "isa": status.isa, "kernel": status.kernels}
            yield gauge("build_info", "What runs.", 1, **build)
            served = {"weights_sha256": self._weights_sha256, "context": str(status.max_model_len)}
            yield gauge("model_info", "What is served.", 1, **served, kv_type=status.kv_dtype, batch_invariant="true")
        times = GaugeMetricFamily(
            PREFIX + "kernel_seconds",
            "What calibration measured at start: the best of a few calls.",
            labels=("model", "op", "kernel", "chosen"),
        )
        for t in status.kernel_times:
            times.add_metric((self._model, t.op, t.kernel, str(t.chosen).lower()), t.seconds)
        if status.kernel_times:
            yield times
        if self._quota is not None:
            yield gauge("cpu_quota_cores", "Cores' worth of time that the control group allowed at start.", self._quota)
        throttled = cpu_throttled_seconds(self._root)
        if throttled is not None:
            family = CounterMetricFamily(
                PREFIX + "cpu_throttled_seconds_total", "Time the control group had to wait.", labels=("model",)
            )
            family.add_metric((self._model,), throttled)
            yield family
        joules = package_joules(self._root)
        if joules:
            family = CounterMetricFamily(
                PREFIX + "energy_joules_total", "Energy of processor packages.", labels=("model", "domain", "method")
            )
            for domain, value in joules.items():
                family.add_metric((self._model, domain, "rapl"), value)
            yield family

    # --- HTTP -------------------------------------------------------------------------------------------------------

    def preset_routes(self, routes: Iterable[tuple[str, str]]) -> None:
        """Let answers of 200 to these (template, method) pairs exist, at 0."""
        for route, method in routes:
            self._http_requests.labels(self._model, route, method, "200")

    def on_http_answer(self, route: str, method: str, status: int) -> None:
        """An answer was begun. ``route`` is a template or ``other``, never a path; ``method`` likewise."""
        self._http_requests.labels(self._model, route, method, str(status)).inc()

    def on_stall(self, seconds: float) -> None:
        """A connection took so long to read what was written."""
        self._stall.observe(seconds)

    def render(self, status: PoolStatus, accept: str) -> tuple[bytes, str]:
        """Return the exposition and its content type, OpenMetrics if ``accept`` asks for it. Never waits for the engine."""
        self._snapshot.status = status
        return self._encoder.encode(accept)

    # --- generation requests (``api.record.GenerationTelemetry``) -----------------------------------------------------

    def on_first_token(self, endpoint: Endpoint, seconds: float) -> None:
        """The first token of a request."""
        self._ttft.labels(self._model, endpoint).observe(seconds)

    def on_inter_token(self, seconds: float) -> None:
        """A gap between two tokens of a choice."""
        self._inter_token.observe(seconds)

    def finish_request(self, record: RequestRecord) -> None:
        """A generation request is over: count it and write its line."""
        self._requests.labels(self._model, record.endpoint, record.outcome).inc()
        if record.reject_reason is not None:
            self._rejected.labels(self._model, record.reject_reason).inc()
        self._duration.labels(self._model, record.endpoint, record.outcome).observe(record.duration_seconds)
        if record.tpot_seconds is not None:
            self._per_token.observe(record.tpot_seconds)
        if record.outcome != "rejected":
            self._prompt_size.observe(record.num_prompt_tokens)
            self._generated_size.observe(record.num_generated_tokens)
        logger.info("request", extra=with_fields(**dataclasses.asdict(record)))

    # --- the pool (``pool.observer.PoolObserver``) --------------------------------------------------------------------

    def on_ready(self, worker: int, hello: Hello) -> None:
        """A worker is up."""
        self._load.set(hello.load_seconds + hello.self_test_seconds)
        self._busy.labels(self._model, str(worker))
        self._idle.labels(self._model, str(worker))
        self._step_ended[worker] = self._clock()

    def on_step(self, worker: int, stats: StepStats) -> None:
        """A step is over; one without rows only carried news of ends."""
        num_rows = stats.num_decode_rows + stats.num_prefill_rows
        if stats.num_evictions:
            self._evictions.inc(stats.num_evictions)
        if not num_rows:
            return
        self._screened.labels(self._model, "candidates").inc(stats.num_screened_rows - stats.num_undecided_rows)
        self._screened.labels(self._model, "whole").inc(stats.num_undecided_rows)
        self._head_candidates.inc(stats.num_finished_candidates)
        kind = "decode" if not stats.num_prefill_rows else "mixed" if stats.num_decode_rows else "prefill"
        self._step.labels(self._model, kind).observe(stats.seconds)
        self._batch_size.observe(stats.num_running)
        self._step_tokens.observe(num_rows)
        for seconds in stats.mask_seconds:
            self._grammar_mask.observe(seconds)
        now = self._clock()
        idle = now - self._step_ended.get(worker, now) - stats.seconds
        self._step_ended[worker] = now
        self._busy.labels(self._model, str(worker)).inc(stats.seconds)
        self._idle.labels(self._model, str(worker)).inc(max(0.0, idle))
        self._last_step.labels(self._model, str(worker)).set_to_current_time()

    def on_restart(self, reason: RestartReason) -> None:
        """A worker died."""
        self._restarts.labels(self._model, reason).inc()

    def on_resumed(self, count: int, reason: RestartReason) -> None:
        """Choices go on after a death."""
        self._resumed.labels(self._model, reason).inc(count)

    def on_cancelled(self, stage: Stage) -> None:
        """A choice was aborted."""
        self._cancelled.labels(self._model, stage).inc()

    def on_numeric_fault(self) -> None:
        """A logit was not finite."""
        self._faults.labels(self._model, "logits").inc()

    def on_queue_time(self, seconds: float) -> None:
        """A choice waited."""
        self._queue.observe(seconds)

    def on_prefill_time(self, seconds: float) -> None:
        """A choice's prompt was computed."""
        self._prefill.observe(seconds)

    def on_decode_time(self, seconds: float) -> None:
        """A choice's tokens were computed."""
        self._decode.observe(seconds)

    def on_prompt(self, num_tokens: int, num_cached: int) -> None:
        """A choice was admitted to its first step."""
        self._prompt_tokens.labels(self._model, "computed").inc(num_tokens - num_cached)
        self._prompt_tokens.labels(self._model, "cached").inc(num_cached)
        self._lookups.inc(num_tokens)
        self._hits.inc(num_cached)

    def on_token(self) -> None:
        """A new token of a choice arrived."""
        self._generated.inc()

    def on_grammar_check(self, kind: GrammarKind, *, was_known: bool, refused: bool) -> None:
        """A request's grammar was checked, or had been before."""
        (self._grammar_hits if was_known else self._grammar_misses).labels(self._model, kind).inc()
        if refused:
            self._grammar_rejected.labels(self._model, kind).inc()

    def on_grammar_compiled(self, kind: GrammarKind, seconds: float) -> None:
        """A worker compiled a grammar."""
        self._grammar_compile.labels(self._model, kind).observe(seconds)


class _Snapshot(Collector):
    """Families that are read at the scrape from the status it sets before."""

    def __init__(self, read: Callable[[PoolStatus], Iterator[Metric]]) -> None:
        self.status: PoolStatus | None = None
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield them; nothing while registering."""
        return iter(()) if self.status is None else self._read(self.status)
