"""How a token is, and what happened to it."""

from dataclasses import dataclass
from typing import Protocol

from sidecar.clocks import Held
from sidecar.model import Ask, Credential, Subject


class Caller(Protocol):
    """The daemon (sidecar.exchange.Daemon)."""

    async def exchange(self, ask: Ask, subject: Subject) -> Credential:
        """A token."""
        ...

    async def lives(self, token: str, subject: Subject) -> bool:
        """Whether it does."""
        ...

    async def give_back(self, token: str, subject: Subject) -> None:
        """Ends its grant."""
        ...


@dataclass(slots=True)
class Counts:
    """What happened since the start, for /metrics."""

    refused: int = 0
    faults: int = 0
    revoked: int = 0
    expired: int = 0


@dataclass(slots=True)
class State:
    """How a token is.

    Attributes:
        held: the credential, and since when it is held.
        vouched: the daemon's last word on it was yes.
        revoked: the daemon's last word on it was no.
        pending: granted, but not written to its files yet.
        away: why its files are not there, though it lives; for people.
        trouble: why it is not as it should be, for people; "" while all is well.
        refused: the reason of the last exchange, if it was a refusal.
        failures: tries since the last that was answered.
        untold: the last who was asked whether it lives could not tell.
    """

    held: Held | None = None
    vouched: bool = False
    revoked: bool = False
    pending: Held | None = None
    away: str = ""
    trouble: str = "nothing was asked for yet"
    refused: str = ""
    failures: int = 0
    untold: bool = False
