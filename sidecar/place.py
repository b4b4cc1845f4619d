"""Where one token's files are and what they say; nowhere, if it is handed out on the socket alone."""

import logging

from sidecar.clocks import Clocks, Held
from sidecar.files import Files, Unwritable
from sidecar.sets import contents, read_back
from sidecar.settings import TokenSettings

log = logging.getLogger("sidecar")


class Place:
    """The files of one token."""

    def __init__(self, settings: TokenSettings) -> None:
        self._settings = settings
        self._files = Files(settings.files) if settings.files else None
        self._left_behind = False

    def adopt(self, clocks: Clocks) -> Held | None:
        """Makes it ready; what an earlier run left for the same request, if it lives. Anything else is removed.

        Raises:
            Unwritable: it cannot be used.
        """
        left = self._files.prepare() if self._files else None
        if self._files is None or left is None:
            return None
        held = read_back(left, self._settings.server, self._settings.ask)
        if held is not None and 0 < held.rest(clocks) <= held.credential.seconds:
            return held
        self._files.remove()
        return None

    def put(self, held: Held, now: float) -> None:
        """The files say this, all of them.

        Raises:
            Unwritable: they say what they said.
        """
        settings = self._settings
        if self._files is not None and settings.files is not None:
            self._files.put(contents(held, settings.files.namespace, settings.server, settings.ask), now)
            self._left_behind = False

    def restore(self, held: Held, now: float) -> bool:
        """The files say this again where somebody took them away; whether somebody had.

        Raises:
            Unwritable: they are still away.
        """
        if self._files is None or self._files.are_there():
            return False
        self.put(held, now)
        return True

    def is_whole(self) -> bool:
        """Whether what was put is there."""
        return self._files is None or self._files.are_there()

    def remove(self) -> None:
        """There are none any more; where that fails, `tidy` tries again."""
        if self._files is None:
            return
        try:
            self._files.remove()
        except Unwritable as error:
            told = {"token": self._settings.name, "why": str(error)}
            log.error("files could not be removed", extra=told)  # noqa: TRY400 - told whole
            self._left_behind = True
        else:
            self._left_behind = False

    def tidy(self, now: float) -> None:
        """Removes what is over: sets that were replaced a while ago, and what could not be removed before."""
        if self._left_behind:
            self.remove()
        if self._files is not None:
            self._files.tidy(now)

    def release(self) -> None:
        """Another sidecar may have the folder."""
        if self._files is not None:
            self._files.release()
