"""A bot publishes on a running bus, wherever its key lives."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sealbus import Bot, Credentials, Verdict
from sealbus.key_places import PLACES
from sealbus.sealed_seed import LEAST_MEMORY_KIB, seal_seed
from tests.cli.command import quickly
from tests.client.ssh_agents import agent, honest, real_agent
from tests.e2e.edits import followed
from tests.e2e.shop import Shop, order
from tests.e2e.traffic import traffic
from tests.waiting import until

PASSPHRASE = "correct horse battery staple"


@contextmanager
def moved(
    shop: Shop, place: str, monkeypatch: pytest.MonkeyPatch, *, slowly_s: float = 0
) -> Iterator[Path]:
    """The credentials of the bot ``order``, with its key at ``place``.

    ``slowly_s``: how long the agent takes for a signature.
    """
    path = shop.bus.credentials("order")
    given = Credentials.load(path)
    key = given.key_in_memory
    monkeypatch.setenv("SEALBUS_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    seed = path.with_name("seed")
    seed.touch(0o600)
    seed.write_text(key.seed_text)
    answer = honest(key)

    def slowly(kind: int, body: bytes) -> bytes | None:
        time.sleep(slowly_s)
        return answer(kind, body)

    with agent(slowly) as socket:
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        value = {
            "seed": key.seed_text,
            "seed_file": "$CREDENTIALS_DIRECTORY/seed",
            "sealed_seed": seal_seed(key, PASSPHRASE, passes=1, memory_kib=LEAST_MEMORY_KIB),
            "ssh_agent": key.public.text,
        }[place]
        path.write_text(given.text(place, value))
        yield path


@pytest.mark.parametrize("place", PLACES)
async def test_bot_publishes_wherever_its_key_lives(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with moved(shop, place, monkeypatch) as path:
        async with Bot.from_file(path) as sender:
            stamp = await sender.publish("orders.placed", order(1))
    assert (stamp.bot, stamp.verdict) == ("order", Verdict.ACCEPTED)


async def test_slow_agent_holds_up_no_message(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, each_sent_once: None
) -> None:
    """Messages go on while the agent signs for the next connection."""
    with moved(shop, "ssh_agent", monkeypatch, slowly_s=0.5):
        async with traffic(shop, renew_s=0.3) as seen:
            before = seen.sent
            await until(lambda: seen.sent > before + 100, "messages go on")
    seen.check()
    assert seen.lost == []
    assert await shop.stored("QUARANTINE") == 0


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="there is no ssh-agent")
async def test_key_of_an_ssh_agent_is_enrolled_on_a_running_bus(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent").mkdir()
    with real_agent(tmp_path / "agent") as (socket, line):
        by = ("--bus-key", shop.secrets.bus.public.text, "--server", shop.url)
        told = quickly("keys", "enrol", "order", line, *by, cwd=shop.bus.path)
        assert told.code == 0, told.err
        await followed(shop)
        path = tmp_path / "order.toml"
        path.touch(0o600)
        path.write_text(told.out)
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        async with Bot.from_file(path) as sender:
            await sender.publish("orders.placed", order(1))
            assert sender.credentials.key.public.text in told.out
