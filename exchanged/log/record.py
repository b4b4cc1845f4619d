"""What one record says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from exchanged.model import GrantId, RequestId


class RecordKind(StrEnum):
    """What a record tells; one kind a step of a grant's life, and the daemon's own events."""

    INTENDED = "intended"
    ISSUED = "issued"
    FAILED = "failed"
    REVOKED = "revoked"
    RETURNED = "returned"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused"
    UNVERIFIED = "unverified"
    SUBJECT_REVOKED = "subject_revoked"
    EPOCH = "epoch"
    SWEPT = "swept"
    POLICIES_LOADED = "policies_loaded"
    KEYS_CHANGED = "keys_changed"
    STARTED = "started"
    RESUMED = "resumed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One entry, not yet written. `body` holds JSON values, and times that become RFC 3339; it never holds a token."""

    kind: RecordKind
    time: datetime
    request_id: RequestId | None = None
    grant_id: GrantId | None = None
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """A record with its place in the log: `sequence` counts from 1, without gaps."""

    sequence: int
    record: Record
