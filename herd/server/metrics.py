"""Prometheus metrics, under the names that vLLM's dashboards know, and counters of HTTP requests."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from herd.gateway.reply import Reply

MODEL = ["model_name"]
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
WHOLE_REQUEST = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
MAX_ROUTES, OTHERS = 1000, "(others)"
# What the engine counts: its name there, and for people. The first is a gauge.
ENGINE = {
    "kv_cache_usage_perc": "Used part of the KV cache, 0 to 1",
    "prefix_cache_queries": "Prompt tokens looked up in the prefix cache",
    "prefix_cache_hits": "Prompt tokens found in the prefix cache",
    "num_preemptions": "Requests that gave up their cache to be computed again later",
    "spec_decode_num_drafts": "Times that tokens were guessed ahead",
    "spec_decode_num_draft_tokens": "Tokens guessed ahead",
    "spec_decode_num_accepted_tokens": "Tokens guessed ahead and right",
}


ADAPTERS = ("running_lora_adapters", "waiting_lora_adapters", "max_lora")


class Metrics:
    """One set of metrics for one server: a gateway's `Observer`."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}
        self.registry = registry = CollectorRegistry()
        self.engine: Mapping[str, Mapping[str, float]] = {}
        self.adapters: Callable[[], Mapping[str, str]] = dict  # the labels of which `ADAPTERS` has the names
        registry.register(_Engine(self))

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(name, about, MODEL, registry=registry)

        def counter(name: str, about: str, labels: list[str]) -> Counter:
            return Counter(name, about, labels, registry=registry)

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, MODEL, buckets=buckets, registry=registry)

        self.running = gauge("vllm:num_requests_running", "Requests that are generating")
        self.waiting = gauge("vllm:num_requests_waiting", "Requests in the queue")
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens read", MODEL)
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens generated", MODEL)
        self.success = counter("vllm:request_success", "Requests that finished", [*MODEL, "finished_reason"])
        self.first_token = histogram(
            "vllm:time_to_first_token_seconds", "Arrival to first token", FIRST_TOKEN
        )
        self.between = histogram("vllm:inter_token_latency_seconds", "Between two tokens", BETWEEN_TOKENS)
        self.whole = histogram("vllm:e2e_request_latency_seconds", "Arrival to last token", WHOLE_REQUEST)
        self.queued = histogram("vllm:request_queue_time_seconds", "Arrival to start", FIRST_TOKEN)
        self.attempts = counter(
            "herd_attempts", "Attempts at providers, by how they ended", ["provider", "state"]
        )
        self.shadows = counter(
            "herd_shadows", "Copies of requests that were sent or left out", [*MODEL, "outcome"]
        )
        self.http = counter("herd_http_requests", "HTTP requests", ["method", "route", "status"])
        self.http_seconds = Histogram(
            "herd_http_request_seconds", "HTTP requests, to the last byte", ["route"], registry=registry
        )

    def watch(self, route: str) -> "_Watch":
        """For one reply, which waits from now on. Callers choose the names of models: they are not endless here."""
        name = route if route in self._routes or len(self._routes) < MAX_ROUTES else OTHERS
        if name not in self._routes:
            self._routes[name] = _Route(self, name)
        return _Watch(self._routes[name])

    def attempt(self, provider: str, state: str) -> None:
        self.attempts.labels(provider, state).inc()

    def shadow(self, route: str, outcome: str) -> None:
        self.shadows.labels(route, outcome).inc()

    def observe_http(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in {"GET", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "PUT"} else "other"
        self.http.labels(known, route, str(status)).inc()
        self.http_seconds.labels(route).observe(seconds)

    def render(self, engine: Mapping[str, Mapping[str, float]]) -> bytes:
        """The exposition text; `engine`: what the engine counts, by the name of the model."""
        self.engine = engine
        return generate_latest(self.registry)


class _Route:
    """The metrics of one route: looked up once, and not for each token."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.name, self.success = name, metrics.success
        self.waiting, self.running = metrics.waiting.labels(name), metrics.running.labels(name)
        self.queued, self.whole = metrics.queued.labels(name), metrics.whole.labels(name)
        self.first_token, self.between = metrics.first_token.labels(name), metrics.between.labels(name)
        self.prompt_tokens = metrics.prompt_tokens.labels(name)
        self.generation_tokens = metrics.generation_tokens.labels(name)


class _Watch:
    """Counts one reply, as `herd.gateway.reply.Watch` has it."""

    def __init__(self, route: _Route) -> None:
        self._route, self._gauge = route, route.waiting
        self._gauge.inc()
        self._queued: float | None = None
        self._heard = False
        self.next = route.between.observe

    def started(self, after: float) -> None:
        self._gauge.dec()
        self._gauge = self._route.running
        self._gauge.inc()
        self._queued = after

    def first(self, after: float) -> None:
        if not self._heard:  # of an attempt before, which broke off
            self._route.first_token.observe(after)
        self._heard = True

    def ended(self, reply: "Reply", seconds: float, counts: bool) -> None:
        self._gauge.dec()
        if counts:
            if self._queued is not None:
                self._route.queued.observe(self._queued)
                self._route.whole.observe(seconds)
            whole = reply.complete and reply.failed is None
            for reason in reply.finish.values() if whole else ():
                self._route.success.labels(self._route.name, reason).inc()
            self._route.prompt_tokens.inc(reply.prompt_tokens)
            self._route.generation_tokens.inc(reply.completion_tokens)


class _Engine:
    """The engine's own counts, as it said them last."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for name, about in ENGINE.items():
            family = GaugeMetricFamily if name.endswith("_perc") else CounterMetricFamily
            metric = family(f"vllm:{name}", about, labels=MODEL)
            for model, counts in self.metrics.engine.items():
                metric.add_metric([model], counts.get(name, 0))
            yield metric
        about = "The LoRA adapters in use, and how many there may be at once; the value is the time in unix seconds"
        info = GaugeMetricFamily("vllm:lora_requests_info", about, labels=ADAPTERS)
        named = self.metrics.adapters()
        info.add_metric([named.get(name, "") for name in ADAPTERS], time.time())
        yield info
