"""The embedded nats-server: started, killed, starved, left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sealbus_broker.errors import ServerFailed
from sealbus_broker.nats import config as nats_config
from sealbus_broker.nats.config import NatsConfig
from sealbus_broker.nats.provision import provision
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.server import process as server_module
from sealbus_broker.server.log import ServerLog
from sealbus_broker.server.process import NatsServer, find_binary
from tests.scene import Scene, a_config, raise_curtain
from tests.small_disk import fill, mounted
from tests.waiting import PATIENCE_S, patiently, until

SECRETS = BusSecrets.generate()

ERR = "[7] 2026/11/24 09:31:59.121674 [ERR]"
NO_SPACE = "JetStream out of space, will be DISABLED"


def runs(pid: int) -> bool:
    """Whether ``pid`` is a process that has not ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def events(logs: Sequence[Mapping[str, object]]) -> list[object]:
    """The names of the events, in order."""
    return [entry["event"] for entry in logs]


def contents(*files: Path) -> bytes:
    """The contents of the files, one after the other."""
    return b"".join(file.read_bytes() for file in files)


@pytest.fixture
def config(tmp_path: Path) -> NatsConfig:
    return a_config(tmp_path, SECRETS)


@pytest.fixture
async def server(config: NatsConfig, tmp_path: Path) -> AsyncIterator[NatsServer]:
    made = NatsServer(config, tmp_path / "state")
    yield made
    await made.stop()


async def test_it_starts_answers_and_stops(
    server: NatsServer, config: NatsConfig, tmp_path: Path
) -> None:
    await server.start()
    pid = server.pid
    assert pid is not None
    assert server.url == f"nats://127.0.0.1:{config.port}"
    with socket.create_connection(("127.0.0.1", config.port), 5) as there:
        assert there.recv(4) == b"INFO"
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    await server.stop()
    await server.stop()
    assert not runs(pid)
    assert server.pid is None
    assert not (tmp_path / "state/nats.pid").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_server_collects_garbage_late_unless_told_otherwise(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOGC", raising=False)
    monkeypatch.setenv("GOMEMLIMIT", "1GiB")
    await server.start()
    environment = contents(Path(f"/proc/{server.pid}/environ")).split(b"\0")
    assert b"GOGC=400" in environment
    assert b"GOMEMLIMIT=1GiB" in environment


async def test_no_secret_reaches_the_configuration_log_or_command_line(
    server: NatsServer, tmp_path: Path
) -> None:
    await server.start()
    assert server.pid is not None
    process, state = Path(f"/proc/{server.pid}"), tmp_path / "state"
    told = contents(
        process / "cmdline", process / "environ", state / "nats.conf", state / "nats.log"
    )
    for key in (SECRETS.bus, SECRETS.issuer, SECRETS.relay):
        assert key.seed_text.encode() not in told
    assert SECRETS.relay.public.text.encode() in told


async def test_killed_it_comes_back_with_its_messages(tmp_path: Path) -> None:
    scene = await raise_curtain(tmp_path)
    await provision(scene.relay, scene.policy)
    await scene.relay.request("accepted.orders.placed", b"kept", PATIENCE_S)
    supervising = asyncio.create_task(scene.server.supervise())
    first = scene.server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: scene.server.pid not in (None, first), "another process")
    await until(
        lambda: scene.relay.is_connected and not scene.relay.is_reconnecting,
        "the relay is connected again",
    )

    async def kept() -> bool:
        return await scene.stored("ACCEPTED") == 1

    await until(kept, "the message is still there")
    assert (await scene.bot("order")).nc.is_connected
    await scene.close()
    await patiently(supervising)


async def test_restart_and_reload_use_its_own_configuration(
    server: NatsServer, tmp_path: Path
) -> None:
    """Somebody else writes the file. With another store, all messages would be gone."""
    file = tmp_path / "state/nats.conf"
    await server.start()
    own = file.read_text()
    file.write_text(own.replace("jetstream", "elsewhere"))
    assert server._reload()
    assert file.read_text() == own

    file.write_text(own.replace("jetstream", "elsewhere"))
    supervising = asyncio.create_task(server.supervise())
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid not in (None, first), "another process")
    assert file.read_text() == own
    await server.stop()
    await patiently(supervising)


async def test_reload_without_its_configuration_does_not_happen(
    server: NatsServer, tmp_path: Path
) -> None:
    file = tmp_path / "state/nats.conf"
    await server.start()
    file.unlink()
    file.mkdir()
    with capture_logs() as logs:
        assert not server._reload()
        assert not server._reload(), "it is tried again, and the log has it once"
    assert [entry["event"] for entry in logs] == ["nats-server.not-reloaded"]
    assert f"{file} cannot be written" in logs[0]["error"]
    assert server.pid is not None


async def test_a_taken_port_is_named(server: NatsServer, config: NatsConfig) -> None:
    with socket.socket() as other:
        other.bind((config.host, config.port))
        other.listen()
        with pytest.raises(ServerFailed, match=f"port {config.port} on 127.0.0.1 is taken") as told:
            await server.start()
    assert "--port" in str(told.value.hint)
    # The folder is free again, and so is now the port.
    again = NatsServer(config, server.folder)
    await again.start()
    await again.stop()


async def test_an_address_of_another_machine(config: NatsConfig, tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"port \d+ on 192\.0\.2\.1 cannot be had") as told:
        await NatsServer(replace(config, host="192.0.2.1"), tmp_path).start()
    assert "address of this machine" in str(told.value.hint)


async def test_without_any_nats_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerFailed, match="no nats-server") as told:
        await server.start()
    assert "sealbus[broker]" in str(told.value.hint)


def test_one_on_the_path_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "bin/nats-server"
    other.parent.mkdir()
    other.symlink_to(find_binary())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(other.parent))
    assert find_binary() == other


async def test_a_configuration_that_it_refuses(
    monkeypatch: pytest.MonkeyPatch, server: NatsServer
) -> None:
    server._log.path.parent.mkdir()
    server._log.path.write_text("[1] 2020/01/01 00:00:00.000000 [ERR] an old story\n")
    monkeypatch.setattr(server_module, "render", lambda _: "port: 1\naccounts: { [\n")
    with pytest.raises(ServerFailed, match="ended at once") as told:
        await server.start()
    assert "Parse error on line 3" in told.value.what
    assert "old story" not in told.value.what
    assert "nats.log" in str(told.value.hint)


async def test_a_store_that_cannot_be_made(config: NatsConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerFailed, match="ended at once") as told:
        await NatsServer(replace(config, store_dir=tmp_path / "file"), tmp_path / "state").start()
    assert "storage directory is not a directory" in told.value.what


async def test_a_folder_that_cannot_be_made(config: NatsConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServerFailed, match="cannot be written: Not a directory"):
        await NatsServer(config, tmp_path / "file/state").start()


@pytest.fixture
def locked_folder(tmp_path: Path) -> Iterator[Path]:
    if os.getuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    yield tmp_path
    tmp_path.chmod(0o700)


async def test_a_folder_that_belongs_to_somebody_else(
    config: NatsConfig, locked_folder: Path
) -> None:
    with pytest.raises(ServerFailed, match="cannot be written: Permission denied") as told:
        await NatsServer(config, locked_folder / "state").start()
    assert "belongs to somebody else" in str(told.value.hint)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as disk:
        yield disk


async def test_a_full_disk_is_waited_out(small_disk: Path) -> None:
    """Nobody restarts anything. When there is space again, the server has all its messages."""
    scene: Scene = await raise_curtain(small_disk / "bus")
    await provision(scene.relay, scene.policy)
    supervising = asyncio.create_task(scene.server.supervise())
    await scene.relay.request("accepted.orders.placed", b"kept", PATIENCE_S)
    filler = fill(small_disk)
    await scene.relay.publish("accepted.orders.placed", bytes(500_000))
    with capture_logs() as logs:
        await until(lambda: any(entry["event"] == "disk.filled" for entry in logs), "it says so")
    assert scene.server.pid is None
    assert not supervising.done()
    filler.unlink()
    await until(lambda: scene.server.pid is not None, "it runs again")
    await until(
        lambda: scene.relay.is_connected and not scene.relay.is_reconnecting, "connected again"
    )
    stored = json.loads(
        (await scene.relay.request("accepted.orders.placed", b"another", PATIENCE_S)).data
    )
    assert stored["stream"] == "ACCEPTED"
    assert stored["seq"] >= 2
    await scene.close()
    await patiently(supervising)


async def test_a_stop_is_heard_while_the_disk_is_full(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FULL_BYTES", 2**40)
    monkeypatch.setattr(server_module, "ROOM_BYTES", 2**40)
    scene: Scene = await raise_curtain(small_disk / "bus")
    supervising = asyncio.create_task(scene.server.supervise())
    await until(lambda: scene.server.pid is None, "it is ended")
    await scene.close()
    await patiently(supervising)


def a_fake(
    folder: Path,
    version: str = "2.15.1",
    says: str = "",
    then: str = "time.sleep(60)",
    first: str = "",
) -> Path:
    """A nats-server that does ``first``, greets, writes ``says`` to its log, and then does
    ``then``."""
    script = folder / "nats-server"
    script.write_text(
        f"#!{sys.executable}\n"
        + textwrap.dedent(
            f"""
            import json, os, re, socket, sys, time
            {first}
            conf = open(sys.argv[2]).read()
            port = int(re.search(r'listen: "127.0.0.1:(\\d+)"', conf)[1])
            name = re.search(r'server_name: "(.*)"', conf)[1]
            with socket.socket() as door:
                door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                door.bind(("127.0.0.1", port))
                door.listen()
                there, _ = door.accept()
                info = {{"server_name": name, "version": {version!r}}}
                there.sendall(b"INFO " + json.dumps(info).encode() + b"\\r\\n")
                there.close()
            print({says!r}, file=sys.stderr, flush=True)
            {then}
            """
        )
    )
    script.chmod(0o755)
    return script


async def test_one_that_is_too_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    monkeypatch.setattr(server_module, "find_binary", lambda: a_fake(tmp_path, version="2.9.25"))
    with pytest.raises(ServerFailed, match=r"nats-server 2\.9\.25 is too old; at least 2\.14"):
        await server.start()
    assert server.pid is None


def slow(folder: Path) -> tuple[Path, Path]:
    """A nats-server that listens only once a file exists, and that file."""
    read = folder / "read"
    first = f"while not os.path.exists({str(read)!r}): time.sleep(0.01)"
    return a_fake(folder, first=first), read


async def test_slow_start_is_waited_for_and_told_in_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    """A server that is ended would begin again to read its streams back."""
    fake, read = slow(tmp_path)
    monkeypatch.setattr(server_module, "find_binary", lambda: fake)
    monkeypatch.setattr(server_module, "SLOW_START_S", 0.05)
    with capture_logs() as logs:
        starting = asyncio.create_task(server.start())
        await until(lambda: len(logs) >= 3 or starting.done(), "the log says so again and again")
        pid = server.pid
        read.touch()
        await patiently(starting)
    assert set(events(logs)) == {"nats-server.starts-slowly"}
    assert str(server._folder.log_file) in logs[0]["hint"]
    assert server.pid == pid


async def test_start_that_is_cancelled_while_slow_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    fake, _ = slow(tmp_path)
    monkeypatch.setattr(server_module, "find_binary", lambda: fake)
    starting = asyncio.create_task(server.start())
    await until(lambda: server.pid is not None or starting.done(), "it is started")
    pid = server.pid
    assert pid is not None
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await patiently(starting)
    assert not runs(pid)


async def test_stop_ends_a_slow_restart_without_a_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    fake, read = slow(tmp_path)
    monkeypatch.setattr(server_module, "find_binary", lambda: fake)
    read.touch()
    await server.start()
    read.unlink()
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    supervising = asyncio.create_task(server.supervise())
    with capture_logs() as logs:
        await until(lambda: server.pid not in (None, first), "another process")
        await server.stop()
        await patiently(supervising)
    assert server.pid is None
    assert events(logs) == ["nats-server.died"]


async def test_one_that_listens_and_does_not_greet_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    """It has read its streams back, so more time does not help."""
    silent = tmp_path / "nats-server"
    a_fake(tmp_path)
    silent.write_text(silent.read_text().replace("there.sendall(", "repr("))
    monkeypatch.setattr(server_module, "find_binary", lambda: silent)
    monkeypatch.setattr(server_module, "UNGREETED_S", 0.0)
    with pytest.raises(ServerFailed, match="listens, and has not greeted for 0 s"):
        await patiently(server.start())
    assert server.pid is None


async def test_one_that_keeps_dying_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    fake = a_fake(tmp_path, says="[1] x y [FTL] the store is corrupt", then="sys.exit(1)")
    monkeypatch.setattr(server_module, "find_binary", lambda: fake)
    await server.start()
    with pytest.raises(ServerFailed, match=r"keeps dying:\n .*the store is corrupt"):
        await patiently(server.supervise())


async def test_disk_that_fills_up_again_is_waited_out_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    """A stop because of it is no death, however soon it comes after the start."""
    full: list[int] = []
    looks = 0

    def room(server: NatsServer) -> int:
        nonlocal looks
        if server.pid is not None:
            looks = 0
            full.append(server.pid)
            return 0
        looks += 1
        return 0 if looks <= 2 else 2**40

    monkeypatch.setattr(server_module, "find_binary", lambda: a_fake(tmp_path))
    monkeypatch.setattr(server_module, "_LOOK_S", 0.01)
    await server.start()
    monkeypatch.setattr(NatsServer, "free_bytes", property(room))
    with capture_logs() as logs:
        supervising = asyncio.create_task(server.supervise())
        enough = server_module.MOST_QUICK_DEATHS + 2
        await until(lambda: len(set(full)) == enough or supervising.done(), "it was full often")
        await server.stop()
        await patiently(supervising)
    assert events(logs).count("disk.filled") >= enough - 1
    assert "nats-server.died" not in events(logs)


async def test_server_that_a_full_disk_ends_at_its_start_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    room = 2**40
    is_filling = False
    good = a_fake(tmp_path)
    ends = tmp_path / "ends"
    ends.write_text(f"#!{sys.executable}\nraise SystemExit(1)\n")
    ends.chmod(0o755)

    def find() -> Path:
        nonlocal room
        if is_filling:
            room = 0
        return ends if is_filling else good

    monkeypatch.setattr(server_module, "find_binary", find)
    monkeypatch.setattr(server_module, "_LOOK_S", 0.01)
    monkeypatch.setattr(NatsServer, "free_bytes", property(lambda _: room))
    await server.start()
    supervising = asyncio.create_task(server.supervise())
    with capture_logs() as logs:
        is_filling = True
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: "disk.filled" in events(logs) or supervising.done(), "it waits")
        is_filling = False
        room = 2**40
        await until(lambda: server.pid is not None or supervising.done(), "it runs again")
        await server.stop()
        await patiently(supervising)
    assert events(logs).count("nats-server.died") == 1


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        (f"{ERR} JetStream stream 'BUS > ACCEPTED' critical write error: input/output error", True),
        (f"{ERR} JetStream consumer 'BUS > A > b' critical write error: input/output error", True),
        (f"{ERR} {NO_SPACE}", True),
        (f"{ERR} JetStream out of File resources, will be DISABLED", True),
        # A client's name is quoted into the log. Nobody may stop the server with it.
        (f'{ERR} 127.0.0.1:4 - cid:1 - "x\\n[7] a b [ERR] {NO_SPACE}"', False),
    ],
)
async def test_one_that_can_no_longer_write_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer, line: str, ends: bool
) -> None:
    monkeypatch.setattr(server_module, "find_binary", lambda: a_fake(tmp_path, says=line))
    monkeypatch.setattr(server_module, "_LOOK_S", 0.05)
    await server.start()
    await until(lambda: line in server._log.path.read_text(), "it has said so")
    supervising = asyncio.create_task(server.supervise())
    if ends:
        with pytest.raises(ServerFailed, match="cannot write its streams any more"):
            await patiently(supervising)
        assert server.pid is None
    else:
        done, _ = await asyncio.wait([supervising], timeout=0.5)
        assert not done
        await server.stop()
        await patiently(supervising)


async def test_one_that_does_not_heed_a_stop_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: NatsServer
) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    deaf = f"{ignore}; print('deaf', file=sys.stderr); time.sleep(60)"
    monkeypatch.setattr(server_module, "find_binary", lambda: a_fake(tmp_path, then=deaf))
    monkeypatch.setattr(server_module, "STOP_S", 0.3)
    await server.start()
    await until(lambda: "deaf" in server._log.path.read_text(), "it is deaf")
    pid = server.pid
    assert pid is not None
    await server.stop()
    assert not runs(pid)


async def test_stopped_while_it_waits_to_restart(
    monkeypatch: pytest.MonkeyPatch, server: NatsServer
) -> None:
    monkeypatch.setattr(server_module, "RESTART_S", 2 * PATIENCE_S)
    await server.start()
    supervising = asyncio.create_task(server.supervise())
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: server.pid is None, "it is dead")
    await server.stop()
    await patiently(supervising)
    assert server.pid is None


async def test_second_server_in_a_folder_is_refused_and_first_goes_on(
    server: NatsServer, config: NatsConfig, tmp_path: Path
) -> None:
    await server.start()
    with pytest.raises(ServerFailed, match="runs already") as told:
        await NatsServer(a_config(tmp_path, SECRETS), tmp_path / "state").start()
    assert "another `sealbus up`" in str(told.value.hint)
    assert server.pid is not None
    assert runs(server.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal and /proc are Linux's")
async def test_it_dies_with_a_relay_that_is_killed(config: NatsConfig, tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio
        from pathlib import Path
        from sealbus.protocol.keys import KeyKind, PublicKey
        from sealbus_broker.nats.config import NatsConfig
        from sealbus_broker.server.process import NatsServer

        async def main():
            relay = PublicKey.parse({config.relay.text!r}, KeyKind.BOT)
            issuer = PublicKey.parse({config.issuer.text!r}, KeyKind.ISSUER)
            config = NatsConfig(Path({str(config.store_dir)!r}), relay, issuer, port={config.port})
            server = NatsServer(config, Path({str(tmp_path / "state")!r}))
            await server.start()
            print(server.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
        """
    )
    relay = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert relay.stdout is not None
    pid = int(await patiently(relay.stdout.readline()))
    assert runs(pid)
    relay.kill()
    await relay.wait()
    # It is started again at once, while the old one may still be ending.
    again = NatsServer(config, tmp_path / "state")
    await again.start()
    assert not runs(pid)
    await again.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_one_that_was_left_behind_is_ended_first(
    server: NatsServer, config: NatsConfig, tmp_path: Path
) -> None:
    await server.start()
    await server.stop()
    left = await asyncio.create_subprocess_exec(
        find_binary(), "-c", tmp_path / "state/nats.conf", stderr=asyncio.subprocess.DEVNULL
    )
    (tmp_path / "state/nats.pid").write_text(str(left.pid))
    await until(lambda: _listens(config.port), "the one left behind listens")
    again = NatsServer(config, tmp_path / "state")
    await again.start()
    await patiently(left.wait())
    await again.stop()


async def test_a_process_that_got_the_old_ones_id_is_left_alone(
    server: NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    (tmp_path / "state/nats.pid").write_text(str(bystander.pid))
    await server.start()
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()


@pytest.mark.parametrize("content", ["", "x", "-1", "0", "1", str(2**40), "\0"])
async def test_a_file_with_an_id_that_is_none(
    server: NatsServer, tmp_path: Path, content: str
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/nats.pid").write_text(content)
    await server.start()


async def test_its_log_stays_small_for_any_number_of_lines(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused stranger can make it write any number of lines."""
    limit = 20_000
    monkeypatch.setattr(nats_config, "LOG_BYTES", limit)
    await server.start()
    begun = (tmp_path / "state/nats.log").stat().st_ino
    said = b""
    for _ in range(600):
        reader, writer = await asyncio.open_connection(
            *server.url.removeprefix("nats://").split(":")
        )
        writer.write(b"x" * 100 + b"\r\n")
        await reader.read()
        writer.close()
        said += server._log.news()
    assert said.count(b"authentication error") > 500
    sizes = [file.stat().st_size for file in (tmp_path / "state").glob("nats.log*")]
    assert (tmp_path / "state/nats.log").stat().st_ino != begun
    assert len(sizes) <= nats_config.LOG_FILES
    assert sum(sizes) < nats_config.LOG_FILES * (limit + 2_000)


def test_a_log_is_followed_into_the_next_file(tmp_path: Path) -> None:
    path = tmp_path / "nats.log"
    path.write_text("an old story\n")
    log = ServerLog(path)
    with log.begin() as output:
        output.write(b"one\ntw")
        output.flush()
        assert log.news() == b"one\n"
        output.write(b"o\n")
        output.flush()
        path.rename(tmp_path / "nats.log.2026")
        path.write_bytes(b"three\nfo")
        assert log.news() == b"two\nthree\n"
    assert log.last_words() == ["three", "fo"]
    assert log.news() == b""
    path.unlink()
    assert (log.news(), log.last_words()) == (b"", [])


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")],  # noqa: S104
)
async def test_other_addresses(config: NatsConfig, tmp_path: Path, host: str, url: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    server = NatsServer(replace(config, host=host), tmp_path / "state")
    await server.start()
    assert server.url == f"nats://{url}:{config.port}"
    await server.stop()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
