"""What the daemon counts. Labels are configured names and constants, never text from callers."""

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._exchanges = Counter(
            "exchanged_exchanges", "Exchanges by door and outcome", ("door", "outcome"), registry=self._registry
        )
        self._seconds = Histogram(
            "exchanged_exchange_seconds", "Duration of an exchange", ("door",), buckets=SECONDS, registry=self._registry
        )
        self._decisions = Counter(
            "exchanged_authorizer_decisions", "Decisions by cluster", ("cluster", "outcome"), registry=self._registry
        )
        self._decision_seconds = Histogram(
            "exchanged_authorizer_seconds", "Duration of a decision", buckets=SECONDS, registry=self._registry
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
        # Finding a labelled metric costs more than counting in it.
        self._of_exchange = cache(
            lambda door, outcome: (self._exchanges.labels(door, outcome), self._seconds.labels(door))
        )
        self._of_decision = cache(self._decisions.labels)
        self.ready = Gauge("exchanged_ready", "1 if a grant could be issued now", registry=self._registry)

    def exchange(self, door: str, outcome: str, seconds: float) -> None:
        """An exchange came to its end; `outcome` is ISSUED or a reason."""
        counter, histogram = self._of_exchange(door, outcome)
        counter.inc()
        histogram.observe(seconds)

    def decision(self, cluster: str, outcome: str, seconds: float) -> None:
        """The authorizer answered, or could not."""
        self._of_decision(cluster, outcome).inc()
        self._decision_seconds.observe(seconds)

    def key_fetch(self, issuer: str, *, succeeded: bool) -> None:
        """An issuer's keys were fetched, or not."""
        self._key_fetches.labels(issuer, "ok" if succeeded else "failed").inc()

    def cluster_call(self, cluster: str, outcome: str) -> None:
        """A call to a cluster; `outcome` is the HTTP status or `error`."""
        self._cluster_calls.labels(cluster, outcome).inc()

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)
