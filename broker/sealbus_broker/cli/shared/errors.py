"""How a command ends, other than by its result. ``main`` gives each its exit code.

::

    SealbusError             1   but 2 for InvalidInput; and 3 for Refused, RequestFailed,
    │                            SubscriptionDenied and InvitationRefused
    ├── BusSilent            1   the bus has taken a login, and does not answer
    ├── Unusable             1   the folder, or a file in it, is not usable
    ├── InputFailed          1   a file or stream cannot be read
    ├── OutputFailed         1   data cannot be written
    ├── TooFew               1   fewer messages came than the command waited for
    ├── Declined             1   a person has answered the command's question with no
    └── AnsweredNo           3   the bus has answered, and the answer is no
    ReaderGone               0   the reader of stdout has left
    Stopped            128 + n   signal n ended the work early
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sealbus import Refused, RequestFailed
from sealbus.errors import InvalidInput, InvitationRefused, SealbusError, SubscriptionDenied
from sealbus.file_hints import file_hint
from sealbus_broker.policy.errors import InTheWay

EXIT_CODES: Final[Mapping[str, str]] = {
    "0": (
        "The command worked, or the reader of stdout has left, as `| head` does. A first signal to"
        " `up`, `relay`, or `sub` without --count gives 0 too."
    ),
    "1": (
        "The command failed: no bus, no verdict, a file that cannot be read or written,"
        " data that stdout does not take, or a no to its question."
    ),
    "2": "The command line is wrong, or a value in it. Nothing was done.",
    "3": "The bus answers no: refused, invalid, not granted or not there.",
    "129": "SIGHUP, which a closing terminal sends, ended the command before its work was done.",
    "130": "Ctrl-C (SIGINT) ended the command before its work was done.",
    "143": "SIGTERM ended the command before its work was done.",
}
"""The meaning of each exit code.

A command that listens without an end of its own, or serves a bus, has no work that a signal could
cut short: it gives 0.
"""


class BusSilent(SealbusError):
    """The bus has taken the login of a command, and does not answer.

    It is no :class:`~sealbus.ConnectionFailed`. A command may do its work without a bus that is
    down. A bus that runs may know more than the command does.
    """


class Unusable(SealbusError):
    """This command cannot work with the folder."""


class InputFailed(SealbusError):
    """A file or stream that a command should read cannot be read."""


class OutputFailed(SealbusError):
    """Data could not be written."""


class TooFew(SealbusError):
    """Fewer messages came than the command waited for."""


class Declined(SealbusError):
    """A person has answered the question of a command with no."""


class AnsweredNo(SealbusError):
    """The bus has answered, and the answer is no."""


class ReaderGone(Exception):
    """The reader of stdout has left. The command ends early, and this is no error."""


class CommandStopped(Exception):
    """The command was asked to stop before it was done."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


def exit_code(error: SealbusError) -> int:
    """The exit code for ``error``."""
    if isinstance(error, InvalidInput) and not isinstance(error, InTheWay):
        return 2
    is_no = Refused | RequestFailed | SubscriptionDenied | InvitationRefused | AnsweredNo
    return 3 if isinstance(error, is_no) else 1


def known_error(error: Exception) -> SealbusError | CommandStopped | ReaderGone | None:
    """The error that a person is told. ``None`` if ``error`` is a defect of Sealbus, which needs a
    traceback.

    A task group hides the error that it ends with in an exception group.
    """
    if isinstance(error, SealbusError | CommandStopped | ReaderGone):
        return error
    if isinstance(error, OSError):
        return refused_by_the_system(error)
    if isinstance(error, ExceptionGroup):
        parts = [known_error(one) for one in error.exceptions]
        return parts[0] if all(parts) else None
    return None


def refused_by_the_system(error: OSError) -> SealbusError:
    """The sentence about an ``OSError`` that no command expected, with a hint."""
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return SealbusError(f"the operating system refused: {what}", hint=file_hint(error))
