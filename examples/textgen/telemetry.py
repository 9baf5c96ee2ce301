"""`/metrics` under the names that vLLM uses."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_INTER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_LABELS = ("model_name", "engine")


class Telemetry:
    """Like the engines it has no counter of failed requests: `request_success` and HTTP statuses are all there is."""

    def __init__(self, model_name: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self._registry = CollectorRegistry()
        labels = (model_name, "0")

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"vllm:{name}", text, _LABELS, buckets=buckets, registry=registry).labels(*labels)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"vllm:{name}", text, _LABELS, registry=registry).labels(*labels)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, _LABELS, registry=registry).labels(*labels)

        self.first_token = histogram("time_to_first_token_seconds", "Time to first token.", _FIRST_TOKEN)
        self.inter_token = histogram("inter_token_latency_seconds", "Time between two tokens.", _INTER_TOKEN)
        self.whole = histogram("e2e_request_latency_seconds", "Time of the whole request.", _WHOLE)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens processed.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self.running = gauge("num_requests_running", "Requests being generated.")
        self.waiting = gauge("num_requests_waiting", "Requests waiting for a place.")
        success = Counter(
            "vllm:request_success", "Requests finished.", (*_LABELS, "finished_reason"), registry=registry
        )
        self.success = {reason: success.labels(*labels, reason) for reason in FINISH_REASONS}
        self.http_requests = Counter(
            "http_requests",
            "Requests by handler, method and status.",
            ("handler", "method", "status"),
            registry=registry,
        )

    def render(self) -> bytes:
        return generate_latest(self._registry)
