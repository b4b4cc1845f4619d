"""What goes into an exchange and what comes out, in the words of RFC 8693, 7662 and 9396."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self, TypedDict


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """An authorization detail of type `kubernetes` (RFC 9396 §2). What is empty does not narrow.

    Attributes:
        api_groups: the core group is "".
        resources: as in RBAC: `pods`, `pods/log`.
        cluster_role: in what was granted only: the cluster role, in place of rules.
    """

    namespaces: Sequence[str] = ()
    api_groups: Sequence[str] = ()
    resources: Sequence[str] = ()
    resource_names: Sequence[str] = ()
    verbs: Sequence[str] = ()
    cluster_role: str = ""


class Ask(TypedDict, total=False):
    """What is asked for (RFC 8693 §2.1).

    Attributes:
        cluster: RFC 8693 `audience`; not needed while the policy has only one.
        scope: `policy/scope`, or the scope alone while one policy matches.
        lifetime: the policy's default without.
        details: they narrow; granted is exactly this, or nothing.
        intent: one line on what you are about to do; recorded as stated.
    """

    cluster: str
    scope: str
    lifetime: timedelta
    details: Sequence[Detail]
    intent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A granted token, and where it is good (RFC 8693 §2.2.1).

    Attributes:
        expires_at: when the grant ends, aware UTC, by the daemon's clock.
        expires_in: seconds that it was good for when it came; to be trusted where clocks differ.
        scope: `policy/scope`.
        server: the API server's URL.
        certificate_authority: PEM that vouches for it; "" where public roots do.
        details: what was granted, rule by rule.
    """

    token: str = field(repr=False)
    grant_id: str
    expires_at: datetime
    expires_in: float
    cluster: str
    scope: str
    server: str
    certificate_authority: str = field(repr=False)
    details: tuple[Detail, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Introspection:
    """What a token stands for (RFC 7662 §2.2). All but `active` is empty for one that is not live.

    Attributes:
        subject: `issuer-name/subject`.
        username: the user that the cluster sees.
        actor: who acts for the subject (RFC 8693 §4.1), or "".
        mode: `authorizer` or `bindings`.
        promise: what this mode promises when the grant ends, in words.
    """

    active: bool
    scope: str = ""
    subject: str = ""
    cluster: str = ""
    username: str = ""
    actor: str = ""
    grant_id: str = ""
    policy: str = ""
    owner: str = ""
    mode: str = ""
    promise: str = ""
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    details: tuple[Detail, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A client certificate for the door `mtls`, such as an X.509-SVID; all PEM.

    Attributes:
        chain: the leaf first.
        roots: who vouches for the daemon, where the certificate's own trust domain does and no `ca` is given.
    """

    chain: bytes
    key: bytes = field(repr=False)
    roots: bytes = b""

    @classmethod
    def read(cls, chain: str | Path, key: str | Path, roots: str | Path | None = None) -> Self:
        """From files, as they are now.

        Raises:
            OSError: one cannot be read.
        """
        return cls(
            chain=Path(chain).read_bytes(),
            key=Path(key).read_bytes(),
            roots=Path(roots).read_bytes() if roots is not None else b"",
        )
