"""What a server measures of itself, in the words of Prometheus."""

import os
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The measurements of one application.

    Where `PROMETHEUS_MULTIPROC_DIR` names a folder, `text` has the sums of all processes that were started with it.

    >>> metrics = Metrics()
    >>> metrics.count_request("/v1/recommend/{user}", 200, 0.002)
    >>> b'gtcrec_requests_total{route="/v1/recommend/{user}",status="200"} 1.0' in metrics.text()
    True
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        kind: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("gtcrec_requests", "Requests answered.", ["route", "status"], **kind)
        self._seconds = Histogram(
            "gtcrec_request_seconds", "Time from a request to its answer.", ["route"], buckets=_SECONDS, **kind
        )
        self._events = Counter("gtcrec_events", "Events acknowledged.", **kind)
        self._reloads = Counter("gtcrec_reloads", "Newer runs taken or refused.", ["variant", "outcome"], **kind)
        self._children: dict[tuple[str, int], tuple[Any, Any]] = {}

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer, and the time that it took."""
        children = self._children.get((route, status))
        if children is None:
            children = self._requests.labels(route, str(status)), self._seconds.labels(route)
            self._children[route, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def count_events(self, number: int) -> None:
        """Count events that were acknowledged."""
        self._events.inc(number)

    def count_reload(self, variant: str, taken: bool) -> None:
        """Count a newer run that was taken, or refused."""
        self._reloads.labels(variant, "taken" if taken else "refused").inc()

    def text(self, versions: Iterable[tuple[str, str]] = ()) -> bytes:
        """Return all measurements in Prometheus' text format; `versions` are pairs of variant and version."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        model = GaugeMetricFamily("gtcrec_model", "1 for the version that answers.", labels=["variant", "version"])
        for pair in versions:
            model.add_metric(pair, 1)
        alone = CollectorRegistry()
        alone.register(_Constant(model))
        return generate_latest(registry) + generate_latest(alone)


class _Constant:
    """A collector of one family of samples."""

    def __init__(self, family: GaugeMetricFamily) -> None:
        self._family = family

    def collect(self) -> list[GaugeMetricFamily]:
        return [self._family]
