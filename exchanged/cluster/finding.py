"""What `exchanged cluster check` tells."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing: `wrong` (something will not work, or a promise does not hold) or `wide` (more than is needed)."""

    level: str
    what: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)
