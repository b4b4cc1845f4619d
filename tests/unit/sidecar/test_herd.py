"""Five thousand sidecars in virtual time, by the sidecar's own schedule: what a daemon that was away has to bear."""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from sidecar.schedule import pause_after_fault, refresh_after
from tests.unit.sidecar.virtual import seeded

SIDECARS = 5_000


@dataclass(slots=True)
class Herd:
    """Sidecars whose credentials live so many seconds; the daemon is away between two moments."""

    lifetime: float
    away: tuple[float, float]
    end: float
    served: Counter[int] = field(default_factory=Counter)
    expired: int = 0

    def run(self) -> None:
        """All of it, by chance that is the same each time."""
        chance = random.Random(1)  # noqa: S311 - a simulation
        draw = chance.uniform
        ends, failed = [0.0] * SIDECARS, [0] * SIDECARS
        # They started within a minute, as a rollout has it.
        coming = [(draw(0.0, 60.0), number) for number in range(SIDECARS)]
        heapq.heapify(coming)
        while coming and coming[0][0] < self.end:
            now, number = heapq.heappop(coming)
            if self.away[0] <= now < self.away[1]:
                failed[number] += 1
                after = pause_after_fault(failed[number], max(0.0, ends[number] - now), draw=draw)
            else:
                self.served[int(now)] += 1
                self.expired += 0 < ends[number] < now
                ends[number], failed[number] = now + self.lifetime, 0
                after = refresh_after(self.lifetime, draw)
            heapq.heappush(coming, (now + after, number))

    def peak_over_mean(self, seconds: int) -> float:
        """Of exchanges a second, over so long after the daemon is back."""
        counts = [self.served[second] for second in range(int(self.away[1]), int(self.away[1]) + seconds)]
        return max(counts) * len(counts) / sum(counts)


@pytest.mark.parametrize("lifetime", [300.0, 600.0, 900.0])
@pytest.mark.parametrize("outage", [2.0, 5.0, 15.0, 30.0])
def test_no_herd_comes_back_and_no_credential_ends_before_it_is_replaced(lifetime: float, outage: float) -> None:
    """The busiest second after a restart has at most three times the mean, and nobody is without a credential."""
    began = 4 * lifetime
    herd = Herd(lifetime=lifetime, away=(began, began + outage), end=began + 3 * lifetime)
    herd.run()
    assert herd.peak_over_mean(int(lifetime)) <= 3
    assert herd.expired == 0


@pytest.mark.parametrize("rest", [0.0, 2.0, 30.0, 250.0, 3600.0])
@pytest.mark.parametrize("hint", [None, 5.0, 3600.0, -1000.0])
def test_a_hint_is_heeded_as_far_as_it_is_bearable(rest: float, hint: float | None) -> None:
    """Whoever answers may say when to come again, but not keep anybody from it while a token lives."""
    pauses = [pause_after_fault(1, rest, hint, seeded(chance)) for chance in range(50)]
    if hint == 5.0 and rest in {0.0, 30.0, 250.0, 3600.0}:
        assert min(pauses) >= 5.0
    assert min(pauses) >= 0
    assert max(pauses) <= (62.0 if rest == 0 else max(3.0, 0.75 * rest))
