"""The logger ``sealbus``, which takes no work down.

The program sets the handlers that write the lines, and a handler may raise anything, in the middle
of the work that logs. Then the line is lost, and the work goes on.
"""

from __future__ import annotations

import logging
from typing import Any, Final

_CALLER: Final = 3
"""How far above ``Logger.log`` the code is that wrote the line."""


class Log:
    """A logger whose methods never raise, except for errors that end the process."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, text: str, *values: object) -> None:
        """Write a line that helps to find mistakes."""
        self._write(logging.DEBUG, text, values)

    def info(self, text: str, *values: object) -> None:
        """Write a line of ordinary events."""
        self._write(logging.INFO, text, values)

    def warning(self, text: str, *values: object) -> None:
        """Write a line that somebody should see."""
        self._write(logging.WARNING, text, values)

    def error(self, text: str, *values: object) -> None:
        """Write a line that somebody must see."""
        self._write(logging.ERROR, text, values)

    def exception(self, error: BaseException, text: str, *values: object) -> None:
        """Write such a line with the traceback of ``error``, which the program's own code
        raised."""
        self._write(logging.ERROR, text, values, exc_info=error)

    def _write(self, level: int, text: str, values: tuple[object, ...], **more: Any) -> None:
        try:
            self._logger.log(level, text, *values, stacklevel=_CALLER, **more)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:  # noqa: BLE001, S110  # of any type: where would it be told?
            pass


log = Log(logging.getLogger("sealbus"))
