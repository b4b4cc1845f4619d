"""What the HTTP library says of requests that it could not handle, without what callers sent."""

import logging
import traceback

_LIBRARY = logging.getLogger("aiohttp.server")


class _NothingOfCallers(logging.Filter):
    """Leaves an error's class and the line it came from. Its text may be a caller's bytes, a token's among them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter.filter`."""
        error = record.exc_info[1] if record.exc_info else None
        record.msg, record.args = "a request could not be handled", ()
        record.exc_info = record.exc_text = record.stack_info = None
        if error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            record.error = type(error).__name__
            record.at = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        return True


_FILTER = _NothingOfCallers()


def keep_callers_out_of_the_log() -> None:
    """From now on; as often as doors are made."""
    _LIBRARY.addFilter(_FILTER)
