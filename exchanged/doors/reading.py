"""Forms of HTTP requests: whole, within a time and a size, and no more at once than memory can bear."""

import asyncio

from exchanged.doors import form
from exchanged.doors.http_messages import BodyLost, BodyTooLarge, Request
from exchanged.errors import MalformedRequest, Reason

FORM = "application/x-www-form-urlencoded"
BODY_SECONDS = 10.0
"""How long the body of a request may take to come: a form is small, and whoever sends it slowly wants us to wait."""
WAITING_BYTES = 32 * 1024 * 1024
"""Of bodies that have come in part. Where there are more, the one that has waited longest is let go."""


class Bodies:
    """Reads the bodies of one door."""

    def __init__(self, *, largest: int) -> None:
        self._largest = largest
        self._most = max(1, WAITING_BYTES // largest)
        self._waiting: dict[asyncio.Timeout, None] = {}
        """In the order they came."""

    async def form(self, request: Request) -> form.Form:
        """The form in a request's body.

        Raises:
            MalformedRequest: it has none, it is too large, or it did not come in time.
        """
        content_type = request.header("content-type").partition(";")[0].strip().lower()
        if content_type != FORM:
            raise MalformedRequest(Reason.MALFORMED, f"a form is expected, not {content_type[:64]}")
        # The parser has made sure that it is a number.
        if int(request.header("content-length") or 0) > self._largest:
            raise _too_large()
        try:
            # What came with its header, as forms do, is not waited for.
            return form.parse(await (request.body() if request.is_whole else self._whole(request)))
        except BodyTooLarge as error:
            raise _too_large() from error
        except TimeoutError as error:
            raise MalformedRequest(Reason.MALFORMED, "the body did not come in time") from error
        except BodyLost as error:
            raise MalformedRequest(Reason.MALFORMED, "the body could not be read") from error

    async def _whole(self, request: Request) -> bytes:
        if len(self._waiting) >= self._most:
            self._let_one_go()
        async with asyncio.timeout(BODY_SECONDS) as patience:
            self._waiting[patience] = None
            try:
                return await request.body()
            finally:
                self._waiting.pop(patience, None)

    def _let_one_go(self) -> None:
        oldest = next(iter(self._waiting))
        del self._waiting[oldest]
        if not oldest.expired():
            oldest.reschedule(asyncio.get_running_loop().time())


def _too_large() -> MalformedRequest:
    return MalformedRequest(Reason.PARAMETER_TOO_LONG, "the body is too large")
