from prometheus_client.parser import text_string_to_metric_families

from exchanged.metrics import Metrics


def _samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """By name, and by the values of the labels in their order."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {(each.name, " ".join(each.labels.values())): each.value for family in families for each in family.samples}


def test_exchanges_are_counted_and_timed() -> None:
    """By door and outcome; each duration is in its own bucket and in all above it."""
    metrics = Metrics()
    metrics.exchange("grpc", "ISSUED", 0.001)
    metrics.exchange("grpc", "ISSUED", 0.0011)
    metrics.exchange("grpc", "NO_POLICY", 60.0)
    metrics.exchange("http", "ISSUED", 0.2)
    told = _samples(metrics)
    assert told["exchanged_exchanges_total", "grpc ISSUED"] == 2
    assert told["exchanged_exchanges_total", "grpc NO_POLICY"] == 1
    buckets = {"0.0005": 0, "0.001": 1, "0.0025": 2, "10.0": 2, "+Inf": 3}
    assert {bound: told["exchanged_exchange_seconds_bucket", f"grpc {bound}"] for bound in buckets} == buckets
    assert told["exchanged_exchange_seconds_count", "grpc"] == 3
    assert told["exchanged_exchange_seconds_sum", "grpc"] == 60.0021
    assert told["exchanged_exchange_seconds_count", "http"] == 1


def test_decisions_are_counted_and_timed() -> None:
    """By cluster and outcome."""
    metrics = Metrics()
    metrics.decision("prod", "allowed", 0.002)
    told = _samples(metrics)
    assert told["exchanged_authorizer_decisions_total", "prod allowed"] == 1
    assert told["exchanged_authorizer_seconds_bucket", "prod 0.0025"] == 1
