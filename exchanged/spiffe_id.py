"""SPIFFE IDs (SPIFFE-ID §2), in the one form in which equal IDs are equal texts; any other is refused."""

import re
from dataclasses import dataclass

SCHEME = "spiffe://"
MAX_LENGTH = 2_048
"""Characters (SPIFFE-ID §2.3)."""
SEGMENT = r"[a-zA-Z0-9._-]+"
"""One segment of a path, but for `.` and `..` (§2.2); as long as the whole lets it be."""
TRUST_DOMAIN = r"[a-z0-9._-]{1,255}"
"""In lower case (§2.1); elsewhere it is read in any case, but two spellings of one name are no help to a policy."""
_ID = re.compile(rf"{SCHEME}({TRUST_DOMAIN})((?:/{SEGMENT})*)")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE ID.

    Attributes:
        path: with its leading slash; "" for the trust domain itself.
    """

    trust_domain: str
    path: str

    @classmethod
    def parse(cls, text: str) -> "SpiffeId":
        """The ID that a text is.

        Raises:
            ValueError: it is none, or not in canonical form.
        """
        found = _ID.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if found is None or not {".", ".."}.isdisjoint(found[2].split("/")):
            raise ValueError("not a SPIFFE ID")
        return cls(found[1], found[2])

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"

    @staticmethod
    def looks_of(trust_domain: str, text: object) -> bool:
        """Whether a text begins as the ID of a workload of this trust domain does; it may be none all the same."""
        return isinstance(text, str) and text.startswith(f"{SCHEME}{trust_domain}/")

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's segments, first to last."""
        return tuple(self.path.split("/")[1:])
