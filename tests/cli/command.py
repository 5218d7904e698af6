"""The command line as a process, as a person or a program runs it."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sealbus_broker.cli.main import main
from tests.forked import forked
from tests.waiting import PATIENCE_S, TIMEOUTS_S, until

SEALBUS = (sys.executable, "-m", "sealbus_broker")


@dataclass
class Ran:
    code: int
    out: str
    err: str


def sealbus(
    *arguments: str,
    cwd: Path,
    given: str | bytes | None = None,
    variables: Mapping[str, str] | None = None,
    full_disk: bool = False,
    prefix: Sequence[str] = (),
) -> Ran:
    """Run a command to its end, by way of ``prefix`` if given.

    ``full_disk``: files can be made, but no byte can be written into them.
    """
    environment = _environment(variables or {})
    if full_disk:  # nor could its coverage be written
        environment = {
            name: value for name, value in environment.items() if not name.startswith(_COVERAGE)
        }
    bytes_given = given.encode() if isinstance(given, str) else given
    if _can_fork(variables or {}) and not prefix and not full_disk:
        with forked(
            ("sealbus_broker", *arguments),
            cwd=cwd,
            environment=environment,
            given=bytes_given or b"",
        ) as command:
            command.process.join(PATIENCE_S)
            return _ran(*command.told)
    done = subprocess.run(  # noqa: PLW1510  # the tests look at the code
        [*prefix, *SEALBUS, *arguments],
        cwd=cwd,
        env=environment,
        input=bytes_given,
        capture_output=True,
        timeout=PATIENCE_S,
        preexec_fn=_no_room if full_disk else None,  # it only sets a limit
    )
    return _ran(done.returncode, done.stdout, done.stderr)


async def sealbus_beside(*arguments: str, cwd: Path, module: str = "sealbus_broker") -> Ran:
    """Run a command to its end, beside the event loop of this process."""
    command_line = (module, *arguments)
    with forked(command_line, cwd=cwd, environment=_environment({})) as command:
        await until(lambda: command.process.exitcode is not None, f"the end of {arguments}")
        return _ran(*command.told)


_COVERAGE: Final = "COVERAGE_PROCESS_"
"""The beginning of the variables that have a process measured (`make coverage`)."""


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith("SEALBUS")
    } | dict(variables)


def _can_fork(variables: Mapping[str, str]) -> bool:
    """Whether a forked process is the same for a test as one that Python starts anew.

    Python reads some variables only at its start.
    """
    return all(name.startswith("SEALBUS") for name in variables)


def _ran(code: int, out: bytes, err: bytes) -> Ran:
    ran = Ran(code, out.decode(), err.decode())
    assert "Traceback" not in ran.err, ran.err
    return ran


def quickly(*arguments: str, cwd: Path, given: str | None = None) -> Ran:
    """Run a command in this process. It takes a twentieth of the time of :func:`sealbus`.

    Use it if the test does not depend on a process of the command's own: on signals, limits, other
    users, several at a time, or the escaping of its streams.
    """
    if arguments[:1] in (("up",), ("relay",)):  # their log goes to the process's own stderr
        return sealbus(*arguments, cwd=cwd, given=given)
    out, err, before = io.StringIO(), io.StringIO(), dict(os.environ)
    stdin, argv = sys.stdin, sys.argv
    for name in [name for name in os.environ if name.startswith("SEALBUS")]:
        del os.environ[name]
    try:
        sys.stdin, sys.argv = io.StringIO(given or ""), ["sealbus", *arguments]
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main()
    finally:
        sys.stdin, sys.argv = stdin, argv
        os.environ.update(before)
    return Ran(code, out.getvalue(), err.getvalue())


PATIENTLY: Final = ("--timeout", f"{PATIENCE_S / 2:g}")
"""Options of a command that waits for the bus. On a busy machine all relays and sessions need
longer than the default. A command that waits in vain still has the time to say why."""


def with_time(run: Callable[[float], Ran], is_enough: Callable[[Ran], bool]) -> Ran:
    """Run a command with a longer and longer time-out until ``is_enough``. Returns the last run."""
    *shorter, longest = TIMEOUTS_S
    for timeout_s in shorter:
        if is_enough(ran := run(timeout_s)):
            return ran
    return run(longest)


def _no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)  # the other process cannot tell us otherwise
