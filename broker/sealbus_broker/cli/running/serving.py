"""Runs a long-running command on the fastest event loop, until a signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from sealbus.errors import SealbusError
from sealbus.supervision import kind
from sealbus_broker.cli.running.logs import logging_to_stderr
from sealbus_broker.cli.shared.errors import exit_code, refused_by_the_system
from sealbus_broker.cli.shared.signals import on_signal
from sealbus_broker.cli.shared.talk import Talk
from sealbus_broker.logger import get_logger

log = get_logger(__name__)

T = TypeVar("T")

Serve = Callable[[asyncio.Event], Awaitable[None]]
"""Runs until the event is set."""

LOOK_S: Final = 2.0
"""The pause before a folder with a problem is read again. Relays that run look as often."""

_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a command. Further ones change nothing, up to the end of the process.

A closing terminal sends SIGHUP. Without an orderly stop, the server would remain.
"""


def run_until_signal(begin: Callable[[], Serve], worker: str | None = None) -> int:
    """Run the result of ``begin`` until it ends, or until SIGINT, SIGTERM or SIGHUP sets its event.

    Returns the exit code. Everything on stderr has the form of the log, from the first line on:
    also the findings and errors of ``begin``. Each line has the name of the ``worker``, if one is
    given.
    """
    with logging_to_stderr(worker):
        try:
            _run(begin())
        except SealbusError as error:
            _tell_failed(error.what, error.hint)
            return exit_code(error)
        except OSError as error:
            refused = refused_by_the_system(error)
            _tell_failed(refused.what, refused.hint)
            return 1
        except Exception as error:  # noqa: BLE001  # of any type: an operator wants a sentence
            what = f"a mistake in Sealbus has ended this command ({kind(error)})"
            _tell_failed(what, "start it again, and report this line")
            return 1
    return 0


IN_THE_LOG: Final = Talk(
    say=lambda text: log.info("folder.said", text=text),
    note=lambda text: log.warning("folder.noted", text=f"note: {text}"),
    problem=lambda text: log.error("problem.found", text=text),
)
"""The log lines in which a long-running command reports its findings in the folder."""

_SILENT: Final = Talk(say=lambda _: None, note=lambda _: None, problem=lambda _: None)


async def when_usable(make: Callable[[Talk], T]) -> T:
    """The result of ``make``, which reads the folder of the bus. While that has a problem, read it
    again every :data:`LOOK_S`.

    It is for a relay that is started again while others run. It may find a change that an operator
    has saved in part. The others go on by the last good policy.
    """
    talk = IN_THE_LOG
    while True:
        try:
            return make(talk)
        except SealbusError as error:
            if talk is IN_THE_LOG:
                _tell_awaited(error.what)
            talk = _SILENT
        await asyncio.sleep(LOOK_S)


def _run(serve: Serve) -> None:
    try:
        import uvloop
    except ImportError:  # not made for this platform or interpreter
        asyncio.run(_until_signal(serve))
    else:
        uvloop.run(_until_signal(serve))


async def _until_signal(serve: Serve) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_tell_lost)
    # `nohup` makes a process ignore SIGHUP on purpose.
    heard = [one for one in _STOPS if signal.getsignal(one) is not signal.SIG_IGN]
    for number in heard:
        on_signal(loop, number, stopping.set)
    try:
        await serve(stopping)
    finally:
        # Nothing is left to stop. asyncio's loop and the interpreter take handlers away when they
        # end. From then on a signal would end the process, with an exit code of its own.
        for number in heard:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _tell_lost(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that nobody answers for. The message is asyncio's own. The error's text stays
    out.
    """
    error = context.get("exception")
    said = {"error": kind(error)} if isinstance(error, BaseException) else {}
    log.error("background.lost", what=str(context.get("message")), **said)


def _tell_awaited(why: str) -> None:
    text = f"error: {why}; this relay waits until the folder is usable"
    log.error("folder.awaited", text=f"{text}\nhint: run `sealbus check`", because=why)


def _tell_failed(what: str, hint: str | None) -> None:
    """Log the sentence and its hint, which are for an operator, and no traceback."""
    text = f"error: {what}" + (f"\nhint: {hint}" if hint else "")
    log.error("command.failed", text=text, error=what, hint=hint)
