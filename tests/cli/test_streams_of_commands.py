"""Every command with standard streams that are closed, full, broken or stuck.

There is no traceback, and the exit codes are those of the documents. A command that cannot write
its data has failed (1). A command whose reader has left has not failed (0). A stderr that cannot
be written changes nothing, and neither does a stdin that the command does not read.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO, Any

import pytest

from sealbus import Credentials
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.subjects import consumer_name
from sealbus_broker.cli.main import cli
from sealbus_broker.cli.messages.bulk import IN_FLIGHT
from sealbus_broker.cli.shared.options import all_commands
from sealbus_broker.server.process import find_binary
from tests.cli.bus import RunningBus, clean_environment, wait_until
from tests.cli.command import PATIENTLY, SEALBUS, Ran, sealbus, wait_for
from tests.docs.places import ROOT
from tests.forked import forked_into
from tests.ports import free_port
from tests.waiting import PATIENCE_S

FULL = Path("/dev/full")

pytestmark = pytest.mark.skipif(
    not FULL.exists(), reason="the platform has no device that is always full"
)


@dataclass(frozen=True)
class State:
    """The state of the three streams. An unnamed stream is a pipe, and stdin is empty."""

    stdin: str = "null"
    stdout: str = "pipe"
    stderr: str = "pipe"

    def __str__(self) -> str:
        return f"{self.stdin}-{self.stdout}-{self.stderr}"


CLOSED = State("closed", "closed", "closed")
STATES = [
    CLOSED,
    State(stdout="full"),
    State(stderr="stuck"),
    State(stdout="broken"),
    State("closed", "pipe", "full"),
    State(stdout="closed"),
    State(stderr="broken"),
]

SERVING = [
    CLOSED,
    State("null", "full", "full"),
    State("null", "broken", "stuck"),
]
"""The same for commands that run until a signal. Each takes seconds."""


def without(*closed: int) -> list[str]:
    """The prefix of a command that begins with these descriptors closed."""
    return ["sh", "-c", 'exec "$@" ' + " ".join(f"{number}>&-" for number in closed), "sh"]


@contextmanager
def opened(how: str, kept: IO[bytes] | None = None) -> Iterator[IO[bytes] | None]:
    """A stream in this state. ``None``: it is closed. ``kept``: the file in the pipe's place."""
    if how == "closed":
        yield None
        return
    if how == "pipe":
        yield kept
        return
    with ExitStack() as stack:
        if how == "null":
            yield stack.enter_context(Path(os.devnull).open("r+b"))
        elif how == "full":
            yield stack.enter_context(FULL.open("wb"))
        else:
            reading, writing = os.pipe()
            stream = stack.enter_context(os.fdopen(writing, "wb", buffering=0))
            if how == "broken":
                os.close(reading)
            else:
                stack.callback(os.close, reading)
                fill(writing)
            yield stream


@contextmanager
def streams(state: State) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """The prefix of a command and the arguments of ``Popen`` that put it into ``state``."""
    names = {"stdin": state.stdin, "stdout": state.stdout, "stderr": state.stderr}
    closed = [number for number, how in enumerate(names.values()) if how == "closed"]
    with ExitStack() as stack:

        def given(how: str) -> Any:
            stream = stack.enter_context(opened(how))
            if how == "pipe":
                return subprocess.PIPE
            return subprocess.DEVNULL if stream is None else stream

        before = without(*closed) if closed else []
        yield before, {name: given(how) for name, how in names.items()}


@contextmanager
def started(
    state: State, command: Sequence[str], cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in ``state``. After the block it has ended, and its pipes are closed."""
    with streams(state) as (before, given):
        environment = clean_environment()
        with subprocess.Popen([*before, *command], cwd=cwd, env=environment, **given) as process:
            try:
                yield process
            finally:
                process.terminate()  # a server ends the processes that it has started
                try:
                    process.wait(PATIENCE_S)
                finally:
                    process.kill()


def fill(writing: int) -> None:
    """Write to a pipe until it holds no byte more."""
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writing, True)


@dataclass
class Call:
    """The surroundings of one call."""

    hello: RunningBus
    folder: Path
    """A copy of the bus's folder, or the folder of the running bus."""
    new: Path
    """A path of the call's own, at which nothing is."""
    stack: ExitStack
    """Ends whatever was started for the test."""
    shared: dict[str, str]
    """Names that all calls of the test have."""
    tokens: list[str]
    """Tokens for the next calls of the test."""

    def run(self, *arguments: str) -> Ran:
        """Run another command on the folder, to its end."""
        ran = self.hello.run(*arguments, "--dir", str(self.folder))
        assert ran.code == 0, ran.err
        return ran


@dataclass
class Case:
    """A call of one command that does its work.

    ``{folder}`` and ``{new}`` are those of its :class:`Call`.
    """

    arguments: tuple[str, ...]
    online: bool = False
    code: int = 0
    before: Callable[[Call], dict[str, str]] = lambda _: {}
    """Makes ready for one call. Returns more names for the arguments."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """More of its environment."""
    is_hasty: bool = False
    """It gives the bus a few seconds for an answer, and has no option for more."""


def with_authority(call: Call) -> dict[str, str]:
    """The folder has certificates."""
    call.run("certs", "init")
    return {}


def with_key(call: Call) -> dict[str, str]:
    """The key of greeter."""
    return {"key": greeter(call).key.public.text}


def with_link(call: Call) -> dict[str, str]:
    """A link to a second key of greeter."""
    call.run("keys", "enrol", "greeter", NEXT)
    return {"link": greeter(call).sign_link(NEXT)}


def greeter(call: Call) -> Credentials:
    return Credentials.load(call.folder / "credentials/greeter.toml")


def with_token(call: Call) -> dict[str, str]:
    """A token for greeter, and a relay that knows it."""
    return {"token": a_token(call, "greeter")}


def with_key_that_came(call: Call) -> dict[str, str]:
    """A key of listener that waits for an operator."""
    token = a_token(call, "listener", "--approve")
    log, file = call.new.with_suffix(".log"), call.new.with_suffix(".toml")
    with log.open("wb") as output:
        command = ("join", token, "--out", str(file))
        joining = call.hello.start(*command, stdout=output, stderr=output)
    try:
        wait_for(log, "the bus has the key")
    finally:
        joining.kill()
        joining.wait()
    return {"key": Credentials.load(file).key.public.text}


def a_token(call: Call, bot: str, *options: str) -> str:
    """A token that the relay knows.

    Those of all calls are made at once, because the relay reads its folder after each change.
    """
    if not call.tokens:
        for _ in range(len(STATES) + 1):
            told = call.run("invite", bot, "--json", *options)
            call.tokens.append(json.loads(told.out)["token"])
        call.run("reload", "--wait", *PATIENTLY)
    return call.tokens.pop()


def with_backup(call: Call) -> dict[str, str]:
    """The running bus as files, and an empty nats-server that takes them."""
    if "saved" not in call.shared:
        call.shared["saved"] = str(call.new.with_name("saved"))
        bus = str(call.hello.folder / "mybus")
        assert call.hello.run("backup", call.shared["saved"], "--dir", bus).code == 0
    return {"server": an_empty_server(call)}


def with_sites(call: Call) -> dict[str, str]:
    """A bus of its own without relays, and an empty nats-server for its mirror."""
    if "first" not in call.shared:
        call.shared["first"] = with_backup(call)["server"]
        call.run("restore", call.shared["saved"], "--server", call.shared["first"])
    return {"second": an_empty_server(call)}


def with_one_mirror(call: Call) -> dict[str, str]:
    """All calls of the test have the same mirror, because each would take it from the other."""
    if "second" not in call.shared:
        call.shared |= with_mirror(call)
    return {}


def with_mirror(call: Call) -> dict[str, str]:
    """A mirror. Nothing connects the sites, so the bus has not spoken to it."""
    found = with_sites(call)
    call.run("mirror", "start", found["second"], "--server", call.shared["first"])
    return found


def an_empty_server(call: Call) -> str:
    """Start a nats-server that has the configuration of the folder. Returns its address."""
    port = free_port()
    server, store = f"nats://127.0.0.1:{port}", call.new.with_name(f"store-{port}")
    config = call.new.with_name(f"{port}.conf")
    own = ("--listen", f"127.0.0.1:{port}", "--store", str(store), "--nats-conf", str(config))
    call.run("prepare", *own)
    process = subprocess.Popen(
        [find_binary(), "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    call.stack.callback(process.wait)
    call.stack.callback(process.kill)
    wait_until(lambda: answers(port))
    return server


HELLO = '{"text": "x"}'
NEXT = SigningKey(bytes(32), KeyKind.BOT).public.text
"""A public key that nobody has yet."""
LINES = [HELLO if number % 8 == 0 else "no JSON" for number in range(IN_FLIGHT + 1)]
"""The lines of a file that is published. One has to wait for room, and every line has a row.

Only a few are sent, because all who publish at once share the rate.
"""
PLACE = consumer_name("listener", "greetings.sent", "streams")
CASES = {
    "backup": Case(("backup", "{folder}/{unique}", "--dir", "{folder}"), online=True),
    "restore": Case(
        ("restore", "{saved}", "--server", "{server}", "--dir", "{folder}"), before=with_backup
    ),
    "init": Case(("init", "other", "--dir", "{folder}/other")),
    "prepare": Case(("prepare", "--dir", "{folder}")),
    "mirror start": Case(
        ("mirror", "start", "{second}", "--server", "{first}", "--dir", "{folder}"),
        before=with_one_mirror,
    ),
    "mirror show": Case(
        ("mirror", "show", "{second}", "--json", "--dir", "{folder}"),
        code=3,
        before=with_one_mirror,
    ),
    "mirror promote": Case(
        ("mirror", "promote", "{second}", "--yes", "--dir", "{folder}"), before=with_mirror
    ),
    "check": Case(("check", "--json", "--dir", "{folder}")),
    "bot add": Case(("bot", "add", "another", "--dir", "{folder}")),
    "certs init": Case(("certs", "init", "--dir", "{folder}")),
    "certs new": Case(
        ("certs", "new", "greeter", "--renew", "--dir", "{folder}"), before=with_authority
    ),
    "certs show": Case(("certs", "show", "--json", "--dir", "{folder}"), before=with_authority),
    "bot rm": Case(("bot", "rm", "clock", "--yes", "--dir", "{folder}")),
    "invite": Case(("invite", "greeter", "--json", "--dir", "{folder}")),
    "invites ls": Case(("invites", "ls", "--json", "--dir", "{folder}")),
    "invites rm": Case(("invites", "rm", "greeter", "--dir", "{folder}")),
    "invites accept": Case(
        ("invites", "accept", "listener", "--key", "{key}", "--dir", "{folder}"),
        online=True,
        before=with_key_that_came,
    ),
    "join": Case(("join", "{token}", "--out", "{new}", "--json"), online=True, before=with_token),
    "keys new": Case(("keys", "new", "greeter", "--out", "{folder}/key.toml", "--dir", "{folder}")),
    "keys enrol": Case(
        (
            "keys",
            "enrol",
            "greeter",
            SigningKey.generate(KeyKind.BOT).public.text,
            "--dir",
            "{folder}",
        )
    ),
    "keys protect": Case(
        ("keys", "protect", "{folder}/credentials/greeter.toml"),
        variables={"SEALBUS_PASSPHRASE": "several random words"},
    ),
    "keys ls": Case(("keys", "ls", "--dir", "{folder}")),
    "keys show": Case(("keys", "show", "greeter", "--dir", "{folder}")),
    "keys revoke": Case(("keys", "revoke", "greeter", "--dir", "{folder}")),
    "keys pins": Case(("keys", "pins", "listener", "--dir", "{folder}")),
    "keys void": Case(("keys", "void", "greeter", "--dir", "{folder}")),
    "keys expire": Case(
        ("keys", "expire", "greeter", "{key}", "--after", "1d", "--dir", "{folder}"),
        before=with_key,
    ),
    "keys rotate": Case(
        ("keys", "rotate", "greeter", "--out", "{folder}/key.toml", "--dir", "{folder}")
    ),
    "keys sign-link": Case(("keys", "sign-link", "{folder}/credentials/greeter.toml", NEXT)),
    "keys link": Case(
        ("keys", "link", "greeter", NEXT, "{link}", "--dir", "{folder}"), before=with_link
    ),
    "keys issuer": Case(("keys", "issuer", "--dir", "{folder}")),
    # No rotation is under way, and a second call of one that is would wait for the bus.
    "keys rotate-bus": Case(("keys", "rotate-bus", "--finish", "--dir", "{folder}")),
    "keys show-bus": Case(("keys", "show-bus", "--dir", "{folder}")),
    "keys sessions": Case(("keys", "sessions", "--dir", "{folder}"), online=True, is_hasty=True),
    "reload": Case(("reload", "--wait", *PATIENTLY, "--dir", "{folder}"), online=True),
    "inspect": Case(("inspect", "{folder}/policy.yaml", "--dir", "{folder}"), code=3),
    "ping": Case(("ping", "--dir", "{folder}"), online=True, is_hasty=True),
    "pub": Case(
        ("pub", "greetings.sent", HELLO, *PATIENTLY, "--as", "greeter", "--dir", "{folder}"),
        online=True,
    ),
    "pub --file": Case(
        (
            "pub",
            "greetings.sent",
            "--file",
            "{lines}",
            "--json",
            *PATIENTLY,
            "--as",
            "greeter",
            "--dir",
            "{folder}",
        ),
        online=True,
        code=3,
    ),
    "pub, refused": Case(
        (
            "pub",
            "greetings.sent",
            "{}",
            "--json",
            *PATIENTLY,
            "--as",
            "greeter",
            "--dir",
            "{folder}",
        ),
        online=True,
        code=3,
    ),
    "sub": Case(
        (
            "sub",
            "greetings.sent",
            "--from",
            "all",
            "--durable",
            "{unique}",
            "-n",
            "1",
            *PATIENTLY,
            "--as",
            "listener",
            "--dir",
            "{folder}",
        ),
        online=True,
    ),
    "request": Case(
        (
            "request",
            "clock.ask",
            '{"zone": "UTC"}',
            *PATIENTLY,
            "--as",
            "listener",
            "--dir",
            "{folder}",
        ),
        online=True,
    ),
    "quarantine ls": Case(("quarantine", "ls", *PATIENTLY, "--dir", "{folder}"), online=True),
    "subscriptions ls": Case(("subscriptions", "ls", *PATIENTLY, "--dir", "{folder}"), online=True),
    "subscriptions rm": Case(
        ("subscriptions", "rm", PLACE, "--dry-run", *PATIENTLY, "--dir", "{folder}"), online=True
    ),
    "quarantine show": Case(
        ("quarantine", "show", "1", *PATIENTLY, "--dir", "{folder}"), online=True
    ),
}
STARTED = ("check", "keys show", "pub", "sub", "certs show")
"""Commands that print lines or JSON, wait for the bus, or fail."""
SERVERS = {
    "up": ("up", "--dir", "{folder}", "--port", "{port}"),
    "relay": ("relay", "--dir", "{folder}", "--name", "second"),
}
"""Commands that run until a signal."""


def test_every_command_has_a_case() -> None:
    known = {" ".join(words) for words, _ in all_commands(cli)}
    assert known <= set(CASES) | set(SERVERS)


@pytest.fixture(scope="module")
def clock(hello: RunningBus) -> Iterator[None]:
    """The bot that answers requests, a message to read, a remembered place, and a record."""
    code = """
from sealbus import Bot
import asyncio
bot = Bot.from_file("mybus/credentials/clock.toml")
@bot.reply("clock.ask")
async def answer(message):
    return {"time": "2026-01-01T00:00:00Z"}
asyncio.run(bot.run())
"""
    with started(
        State(stdout="null", stderr="null"), [sys.executable, "-c", code], hello.folder
    ) as process:
        assert hello.run("pub", "greetings.sent", HELLO, *PATIENTLY, "--as", "greeter").code == 0
        assert hello.run("pub", "greetings.sent", "{}", *PATIENTLY, "--as", "greeter").code == 3
        place = (
            "sub",
            "greetings.sent",
            "--as",
            "listener",
            "--durable",
            "streams",
            "--from",
            "all",
            "-n",
            "1",
            *PATIENTLY,
        )
        assert hello.run(*place).code == 0
        wait_until(
            lambda: (
                hello.run("request", "clock.ask", '{"zone": "UTC"}', "--as", "listener").code == 0
            )
        )
        yield
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def expected(state: State, code: int, out: str) -> int:
    """The exit code in ``state`` of a command that writes ``out`` and else exits with ``code``."""
    if not out or state.stdout == "pipe":
        return code
    return 0 if state.stdout == "broken" else 1


class Calls:
    """The calls of one case. Each has a folder of its own, unless the case needs the bus."""

    def __init__(self, case: Case, hello: RunningBus, *, folder: Path, stack: ExitStack) -> None:
        self._case = case
        self._hello = hello
        self._folder = folder
        self._stack = stack
        self._count = 0
        lines = folder / "lines"
        lines.write_text("\n".join(LINES))
        self._shared = {"lines": str(lines)}
        self._tokens: list[str] = []

    def next(self) -> list[str]:
        """The arguments of one more call."""
        self._count += 1
        folder = self._hello.folder / "mybus"
        if not self._case.online:
            folder = self._folder / f"{self._count}"
            shutil.copytree(
                self._hello.folder / "mybus",
                folder,
                ignore=shutil.ignore_patterns("jetstream", "*.log", "*.sock"),
            )
        new = self._folder / f"new-{self._count}"
        call = Call(self._hello, folder, new, self._stack, self._shared, self._tokens)
        given = {
            **self._case.before(call),
            **self._shared,
            "folder": folder,
            "new": new,
            "unique": f"streams-{self._folder.name}-{self._count}",
        }
        return [
            word.replace("{}", "{{}}").format(**given) if "{" in word and ":" not in word else word
            for word in self._case.arguments
        ]


LATE = 1
"""The exit code of a command that had no answer in time."""


@dataclass(frozen=True)
class Begun:
    """A command that was forked into a state."""

    process: ForkServerProcess
    stderr: IO[bytes]

    def ended(self) -> tuple[int | None, bytes]:
        """Its exit code and its stderr, after its end."""
        self.process.join(PATIENCE_S)
        self.stderr.seek(0)
        return self.process.exitcode, self.stderr.read()


@contextmanager
def forked_in(state: State, arguments: Sequence[str], case: Case, cwd: Path) -> Iterator[Begun]:
    """Run a command in ``state``. After the block it has ended."""
    with ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        given = [
            stack.enter_context(opened(how, kept))
            for how, kept in ((state.stdin, None), (state.stdout, out), (state.stderr, err))
        ]
        environment = clean_environment(**case.variables)
        command = ("sealbus_broker", *arguments)
        process = forked_into(given, command, cwd=cwd, environment=environment)
        yield Begun(stack.enter_context(process), err)


@pytest.mark.parametrize("name", CASES)
def test_a_command_with_broken_streams(
    name: str, hello: RunningBus, clock: None, tmp_path: Path
) -> None:
    """Each command meets each state in a forked process, which is quick."""
    case = CASES[name]
    with ExitStack() as stack:
        calls = Calls(case, hello, folder=tmp_path, stack=stack)
        deadline = time.monotonic() + PATIENCE_S

        def is_late(code: int | None) -> bool:
            """Whether the bus may have been busy, and there is time for another call."""
            return case.is_hasty and code == LATE and time.monotonic() < deadline

        def call() -> Ran:
            return sealbus(*calls.next(), cwd=hello.folder, variables=case.variables)

        normal = call()
        while is_late(normal.code):
            normal = call()
        assert normal.code == case.code, normal.err
        # All are made ready before one changes the folder.
        running = [
            (state, stack.enter_context(forked_in(state, arguments, case, tmp_path)))
            for state, arguments in [(state, calls.next()) for state in STATES]
        ]
        for state, begun in running:
            code, err = begun.ended()
            while code != expected(state, case.code, normal.out) and is_late(code):
                with forked_in(state, calls.next(), case, tmp_path) as again:
                    code, err = again.ended()
            check(state, code, err, case, normal)


@pytest.mark.parametrize("name", STARTED)
def test_an_interpreter_with_broken_streams(
    name: str, hello: RunningBus, clock: None, tmp_path: Path
) -> None:
    """Python starts and ends with them. That is the same for all commands."""
    case = CASES[name]
    with ExitStack() as stack:
        calls = Calls(case, hello, folder=tmp_path, stack=stack)
        normal = hello.run(*calls.next())
        running = [
            (state, stack.enter_context(started(state, [*SEALBUS, *calls.next()])))
            for state in STATES
        ]
        for state, process in running:
            _, err = process.communicate(timeout=PATIENCE_S)
            check(state, process.returncode, err or b"", case, normal)


def check(state: State, code: int | None, err: bytes, case: Case, normal: Ran) -> None:
    """A command has ended as it should in ``state``."""
    told = err.decode()
    assert "Traceback" not in told, f"{state}: {told}"
    assert "Exception ignored" not in told, f"{state}: {told}"
    assert code == expected(state, case.code, normal.out), f"{state}: {told}"


@pytest.mark.parametrize("state", SERVING, ids=str)
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_with_broken_streams(
    name: str, state: State, hello: RunningBus, tmp_path: Path
) -> None:
    """It serves, and it stops in order."""
    folder, port = hello.folder / "mybus", hello.port
    if name == "up":
        folder, port = tmp_path / "mybus", free_port()
        shutil.copytree(
            hello.folder / "mybus",
            folder,
            ignore=shutil.ignore_patterns("jetstream", "*.log", "*.sock", "*.pid"),
        )
    arguments = [word.format(folder=folder, port=port) for word in SERVERS[name]]
    with started(state, [*SEALBUS, *arguments]) as process:
        # Its own output cannot be seen here.
        wait_until(lambda: answers(port) and catches(process.pid, signal.SIGTERM))
        for payload, code in ((HELLO, 0), ("{}", 3)):  # a refusal is logged
            sent = hello.run(
                *("pub", "greetings.sent", payload, *PATIENTLY),
                *("--as", "greeter", "--dir", f"{folder}"),
            )
            assert sent.code == code, sent.err
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0


def catches(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    mask = next(
        line
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if line.startswith("SigCgt:")
    )
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_stdin_that_is_closed_is_named(hello: RunningBus) -> None:
    for arguments in (
        ["pub", "greetings.sent", "--file", "-", "--as", "greeter"],
        ["inspect", "-"],
    ):
        done = subprocess.run(
            [*without(0), *SEALBUS, *arguments],
            cwd=hello.folder,
            env=clean_environment(),
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.returncode, b"error: stdin is closed" in done.stderr) == (1, True), done.stderr


def test_an_empty_stdin_is_nothing_to_publish(hello: RunningBus) -> None:
    done = hello.run("pub", "greetings.sent", "--file", "-", "--as", "greeter", given=b"")
    assert (done.code, done.err.splitlines()[-1]) == (0, "nothing to publish")


LIBRARY = """
import asyncio, sys
from sealbus import Bot, Refused, Stamp, Unresolved
SENT, GOOD = "greetings.sent", {"text": "x"}
async def main():
    listener, greeter, clock = (
        Bot.from_file(f"mybus/credentials/{name}.toml") for name in ("listener", "greeter", "clock")
    )
    handled, connected = asyncio.Event(), asyncio.Event()
    @listener.subscribe(SENT, durable=sys.argv[1])
    async def hear(message):
        if not handled.is_set():
            handled.set()
            raise ValueError("logged, and called again")
    @clock.reply("clock.ask")
    async def answer(message):
        return {"time": "2026-01-01T00:00:00Z"}
    @clock.on_connected
    async def greet():
        connected.set()
        raise ValueError("logged, and the bot goes on")
    running = asyncio.create_task(clock.run())
    async with listener, greeter, asyncio.timeout(120):
        await connected.wait()
        await greeter.grants()
        await greeter.publish(SENT, GOOD)
        sent, refused = await greeter.publish_many(SENT, [GOOD, {}])
        assert (type(sent), type(refused)) == (Stamp, Refused)
        try:
            await greeter.publish(SENT, GOOD, timeout=1e-6)
        except Unresolved as unresolved:
            await greeter.resume(unresolved)
        await listener.request("clock.ask", {"zone": "UTC"}, timeout=120)
        await handled.wait()
        async with listener.messages(SENT, durable=sys.argv[1] + "-all", start="all") as messages:
            async for _ in messages:
                break
    clock.stop()
    await running
asyncio.run(main())
"""
"""Bots that use each call of the library. Others configure their log."""


@pytest.mark.parametrize("state", SERVING[:2], ids=str)
def test_a_bot_whose_log_cannot_be_written_goes_on(hello: RunningBus, state: State) -> None:
    code = "import logging\nlogging.basicConfig(level=logging.DEBUG)\n" + LIBRARY
    with started(state, [sys.executable, "-c", code, f"log-{state}"], hello.folder) as process:
        process.communicate(timeout=PATIENCE_S)
    # Python itself exits with 120 if it cannot flush a stream at its end.
    assert process.returncode in (0, 120)


def test_a_bot_whose_log_is_stuck_goes_on_with_a_queue(hello: RunningBus) -> None:
    """As docs/bots.md configures it."""
    section = (ROOT / "docs/bots.md").read_text().split("\n## Log\n")[1]
    configured = section.split("```python\n")[1].split("```")[0]
    assert "QueueHandler" in configured
    # The thread that is stuck holds stderr, which Python would flush at its end.
    code = f"{configured}{LIBRARY}\nimport os\nos._exit(0)\n"
    command = [sys.executable, "-c", code, "log-queue"]
    with started(State(stderr="stuck"), command, hello.folder) as process:
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
