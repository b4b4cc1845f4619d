"""What the daemon counts. Labels are configured names and constants, never text from callers."""

from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS = (*map(str, SECONDS), "+Inf")


class _Timed(Collector):
    """What happens too often for the library's own counters: counted by where and outcome, timed by where."""

    def __init__(
        self, *, counter: tuple[str, str], seconds: tuple[str, str], where: str, registry: CollectorRegistry
    ) -> None:
        self._counter = counter
        self._histogram = seconds
        self._where = where
        self._outcomes: Counts[tuple[str, str]] = Counts()
        self._buckets: defaultdict[str, list[int]] = defaultdict(lambda: [0] * len(_BOUNDS))
        self._seconds: defaultdict[str, float] = defaultdict(float)
        registry.register(self)

    def note(self, where: str, outcome: str, seconds: float) -> None:
        """One came to its end."""
        self._outcomes[where, outcome] += 1
        self._buckets[where][bisect_left(SECONDS, seconds)] += 1
        self._seconds[where] += seconds

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        counter = CounterMetricFamily(*self._counter, labels=(self._where, "outcome"))
        for labels, count in self._outcomes.items():
            counter.add_metric(labels, count)
        yield counter
        histogram = HistogramMetricFamily(*self._histogram, labels=(self._where,))
        for where, buckets in self._buckets.items():
            up_to = list(zip(_BOUNDS, map(float, accumulate(buckets)), strict=True))
            histogram.add_metric((where,), up_to, self._seconds[where])
        yield histogram


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._exchanges = _Timed(
            counter=("exchanged_exchanges", "Exchanges by door and outcome"),
            seconds=("exchanged_exchange_seconds", "Duration of an exchange"),
            where="door",
            registry=self._registry,
        )
        self._decisions = _Timed(
            counter=("exchanged_authorizer_decisions", "Decisions by cluster"),
            seconds=("exchanged_authorizer_seconds", "Duration of a decision"),
            where="cluster",
            registry=self._registry,
        )
        self._key_fetches = Counter(
            "exchanged_key_fetches", "Fetches of an issuer's keys", ("issuer", "outcome"), registry=self._registry
        )
        self._cluster_calls = Counter(
            "exchanged_cluster_calls", "Calls to a cluster's API", ("cluster", "outcome"), registry=self._registry
        )
        self.live_grants = Gauge("exchanged_live_grants", "Grants intended or issued", registry=self._registry)
        self.backlog = Gauge(
            "exchanged_withdrawal_backlog", "Ended grants that their cluster still honours", registry=self._registry
        )
        self.policies = Gauge("exchanged_policies", "Policies in force", registry=self._registry)
        self.faulty_files = Gauge(
            "exchanged_policy_files_faulty", "Policy files whose last good content is in force", registry=self._registry
        )
        self.policy_load_seconds = Gauge(
            "exchanged_policy_load_seconds", "Duration of the last load", registry=self._registry
        )
        self.certificate_expiry = Gauge(
            "exchanged_certificate_expiry_timestamp_seconds",
            "End of a serving certificate",
            ("door",),
            registry=self._registry,
        )
        self.ready = Gauge("exchanged_ready", "1 if a grant could be issued now", registry=self._registry)

    def exchange(self, door: str, outcome: str, seconds: float) -> None:
        """An exchange came to its end; `outcome` is ISSUED or a reason."""
        self._exchanges.note(door, outcome, seconds)

    def decision(self, cluster: str, outcome: str, seconds: float) -> None:
        """The authorizer answered, or could not."""
        self._decisions.note(cluster, outcome, seconds)

    def key_fetch(self, issuer: str, *, succeeded: bool) -> None:
        """An issuer's keys were fetched, or not."""
        self._key_fetches.labels(issuer, "ok" if succeeded else "failed").inc()

    def cluster_call(self, cluster: str, outcome: str) -> None:
        """A call to a cluster; `outcome` is the HTTP status or `error`."""
        self._cluster_calls.labels(cluster, outcome).inc()

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)
