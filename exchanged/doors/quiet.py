"""What is said of requests that could not be handled, without what callers sent."""

import logging
import traceback

COULD_NOT = "a request could not be handled"
_LIBRARY = logging.getLogger("aiohttp.server")


class _NothingOfCallers(logging.Filter):
    """Says of the library's errors no more than of our own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`."""
        error = record.exc_info[1] if record.exc_info else None
        record.msg, record.args = COULD_NOT, ()
        record.exc_info = record.exc_text = record.stack_info = None
        if error is not None:
            vars(record).update(without_text(error))
        return True


def without_text(error: BaseException) -> dict[str, str]:
    """An error's class and the line it came from. Its text may be a caller's bytes, a token's among them."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "at": f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""}


_FILTER = _NothingOfCallers()


def keep_callers_out_of_the_log() -> None:
    """From now on; as often as doors are made."""
    _LIBRARY.addFilter(_FILTER)
