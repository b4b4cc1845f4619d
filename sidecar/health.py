"""Health and figures: /healthz, /readyz, /metrics."""

from collections.abc import Callable, Iterable, Sequence

from sidecar import __version__
from sidecar.answers import Answer
from sidecar.hooks import Hooks
from sidecar.keeper import Keeper

_METRICS = "text/plain; version=0.0.4; charset=utf-8"
Kept = Sequence[tuple[Keeper, Hooks]]


def answering(kept: Kept) -> Callable[[str], Answer]:
    """What each path says."""

    def answer(path: str) -> Answer:
        if path == "/healthz":
            return Answer(200, "ok\n")
        if path == "/readyz":
            return _ready(kept)
        if path == "/metrics":
            return Answer(200, "\n".join(_metrics(kept)) + "\n", _METRICS)
        return Answer(404, "there are /healthz, /readyz and /metrics\n")

    return answer


def _ready(kept: Kept) -> Answer:
    """Ready is what works and lives: every token, by both clocks and the daemon's last word."""
    troubles = [f"{keeper.settings.name}: {keeper.trouble}" for keeper, _ in kept if not keeper.ready]
    return Answer(503, "\n".join(troubles) + "\n") if troubles else Answer(200, "ok\n")


def _metrics(kept: Kept) -> Iterable[str]:
    yield from _family("info", "gauge", "the version that runs", [(f'version="{__version__}"', 1)])
    yield from _gauges(kept)
    exchanges = [
        (f'{_label(keeper)},outcome="{outcome}"', number)
        for keeper, _ in kept
        for outcome, number in (
            ("granted", keeper.grants.came),
            ("refused", keeper.counts.refused),
            ("fault", keeper.counts.faults),
        )
    ]
    yield from _family("exchanges_total", "counter", "tries to have a token, by how they ended", exchanges)
    ends = [
        (f'{_label(keeper)},why="{why}"', number)
        for keeper, _ in kept
        for why, number in (("revoked", keeper.counts.revoked), ("expired", keeper.counts.expired))
    ]
    yield from _family("ended_total", "counter", "tokens that ended before another was there", ends)
    runs = [
        (f'{_label(keeper)},outcome="{outcome}"', number)
        for keeper, hooks in kept
        for outcome, number in (("done", hooks.done), ("failed", hooks.failed))
    ]
    yield from _family("hooks_total", "counter", "hooks, by how they ended", runs)


def _gauges(kept: Kept) -> Iterable[str]:
    ready = [(_label(keeper), int(keeper.ready)) for keeper, _ in kept]
    yield from _family("token_ready", "gauge", "1 where the token works and lives", ready)
    rests = [
        (_label(keeper), round(max(0.0, held.rest(keeper.clocks)), 1) if (held := keeper.state.held) else 0)
        for keeper, _ in kept
    ]
    yield from _family("token_lives_seconds", "gauge", "for how long the token still lives; 0 without one", rests)
    failures = [(_label(keeper), keeper.state.failures) for keeper, _ in kept]
    yield from _family("failures_in_a_row", "gauge", "tries since the last that was answered", failures)


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> Iterable[str]:
    yield f"# HELP sidecar_{name} {text}"
    yield f"# TYPE sidecar_{name} {kind}"
    yield from (f"sidecar_{name}{{{labels}}} {number}" for labels, number in samples)


def _label(keeper: Keeper) -> str:
    return f'token="{keeper.settings.name}"'
