"""Why a token was not accepted."""

from exchanged.errors import Reason


class TokenRefused(Exception):
    """A token that proves nothing here.

    Args:
        reason: why, for machines.
        detail: what exactly, for the record; never the token.
        verified: the signature was good, so that an issuer vouches for whoever holds it.
    """

    def __init__(self, reason: Reason, detail: str, *, verified: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.verified = verified
