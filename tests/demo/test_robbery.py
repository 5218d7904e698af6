"""The demo as a newcomer runs it.

These tests also show that it would notice a bus that does not hold.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from examples.robbery.attempts import ATTEMPTS
from examples.robbery.catalogue import ATTACKS, ON_STAGE, READ, Attack
from examples.robbery.judging import TRADE, Finding, Trade, faults
from examples.robbery.make_orders import FILE, make_orders
from examples.robbery.order_book import opening_stock, read_orders
from examples.robbery.shop import Shop
from examples.robbery.under_tls import SECRETS, TlsShop
from sealbus import InvalidInput
from tests.attacks.corpus import Where
from tests.attacks.families import NAMED
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]


def write_orders(path: Path, orders: list[dict[str, Any]]) -> Path:
    path.write_text(
        "".join(json.dumps(order, ensure_ascii=False) + "\n" for order in orders), encoding="utf-8"
    )
    return path


def demo(orders: Path, scratch: Path) -> subprocess.Popen[str]:
    scratch.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "examples.robbery", str(orders)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def processes_with(text: str) -> list[str]:
    """The command lines of living processes that contain ``text``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


class PlainShop(TlsShop):
    """The last act, by an operator who forgets the TLS."""

    scheme = "nats"

    async def _encrypt(self) -> None:
        """Do nothing."""


# ---- the whole demo ------------------------------------------------------------------------------


def test_attacks_are_stopped_and_own_orders_all_go_through(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    process = demo(write_orders(tmp_path / "my.jsonl", make_orders(60)), scratch)
    out, err = process.communicate(timeout=4 * PATIENCE_S)
    assert process.returncode == 0, out + err
    for attack in ATTACKS:
        assert attack.key in out
    assert (
        f"{len(ATTACKS)} attacks, all stopped where they should be. 60 orders, all shipped" in out
    )
    assert "SIGKILL for the relay" in out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert "\x1b" not in out
    assert list(scratch.iterdir()) == []
    assert processes_with(str(scratch)) == []


async def test_a_line_that_can_be_read_is_noticed(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "bus")
    shop.write_credentials("order")
    async with PlainShop(shop, tmp_path, print) as plain:
        finding = await plain.read_line(read_orders(FILE)[0])
    assert finding.where is None
    for word in SECRETS:
        assert word.decode() in finding.why
    assert faults([READ], [finding], held()[1]) != []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    scratch = tmp_path / "scratch"
    process = demo(write_orders(tmp_path / "my.jsonl", make_orders(60)), scratch)
    assert process.stdout is not None
    for line in process.stdout:
        if "trade:" in line:
            break
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert list(scratch.iterdir()) == []
    assert processes_with(str(scratch)) == []


def test_a_mistake_in_a_file_of_orders_is_refused_with_its_line(tmp_path: Path) -> None:
    orders = make_orders(30)
    orders[6]["items"][0]["quantity"] = 0
    process = demo(write_orders(tmp_path / "my.jsonl", orders), tmp_path / "scratch")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert out == ""
    assert f"error: {tmp_path / 'my.jsonl'}:7: is not an order" in err
    assert "hint:" in err
    assert "Traceback" not in err


# ---- orders --------------------------------------------------------------------------------------


def spoil_json(lines: list[str]) -> None:
    lines[2] = lines[2][:-1]


def spoil_number(lines: list[str]) -> None:
    lines[2] = lines[2].replace('"quantity": ', '"quantity": NaN, "x": ', 1)


def double_id(lines: list[str]) -> None:
    lines[2] = lines[1]


def spoil_text(lines: list[str]) -> None:
    lines[2] = json.dumps({**json.loads(lines[2]), "note": "half a character: \ud800"})


def double_key(lines: list[str]) -> None:
    lines[2] = lines[2].replace('"currency": ', '"currency": "EUR", "currency": ', 1)


def no_object(lines: list[str]) -> None:
    lines[2] = "[" * 100_000


@pytest.mark.parametrize(
    "spoil", [spoil_json, spoil_number, double_id, double_key, spoil_text, no_object]
)
def test_a_wrong_line_is_named(tmp_path: Path, spoil: Callable[[list[str]], None]) -> None:
    lines = [json.dumps(order) for order in make_orders(30)]
    spoil(lines)
    path = tmp_path / "my.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidInput, match=r"my\.jsonl:3: "):
        read_orders(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\n\n"])
def test_a_file_without_orders_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "my.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"my\.jsonl"):
        read_orders(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_orders(tmp_path / "my.jsonl")


def test_the_script_makes_the_shipped_orders() -> None:
    orders = read_orders(FILE)
    assert len(orders) >= 1000
    assert orders == make_orders(len(orders))


# ---- a bus that does not hold --------------------------------------------------------------------


def held() -> tuple[list[Finding], Trade]:
    """The director's findings when every attack is stopped."""
    findings = [
        Finding(attack, attack.where, attack.why, attack.detail or "seen") for attack in ATTACKS
    ]
    stock, sold = opening_stock(make_orders(30)), {"TEA-0001": 7}
    after = {sku: count - sold.get(sku, 0) for sku, count in stock.items()}
    stored = dict.fromkeys(TRADE, 30)
    return findings, Trade(30, 30, 30, 30, 30, 0, stored, stock, after, sold)


def test_nothing_is_wrong_when_everything_was_stopped() -> None:
    assert faults(ATTACKS, *held()) == []


def test_every_attack_in_the_catalogue_can_be_carried_out() -> None:
    assert set(ATTEMPTS) == {attack.key for attack in ON_STAGE}
    assert len(ATTACKS) == len({attack.key for attack in ATTACKS})


@pytest.mark.parametrize("attack", ON_STAGE, ids=lambda attack: attack.key)
def test_an_attacks_cases_in_the_corpus_are_stopped_alike(attack: Attack) -> None:
    """The corpus says where each attack is stopped, and why. The demo expects the same."""
    cases = [NAMED[name] for name in attack.cases]
    assert {case.where for case in cases} == {attack.where}
    if attack.where is not Where.NATS:  # there the subject is part of the reason
        assert len({case.reason for case in cases}) == 1
    assert attack.why


@pytest.mark.parametrize("number", range(len(ATTACKS)), ids=[attack.key for attack in ATTACKS])
def test_an_attack_that_was_not_stopped_or_elsewhere_is_noticed(number: int) -> None:
    findings, trade = held()
    elsewhere = Where.DOOR if findings[number].where is not Where.DOOR else Where.GATE
    doctored = (
        replace(findings[number], where=None, why="nothing to be seen"),
        replace(findings[number], where=elsewhere),
        replace(findings[number], why="another reason"),
        replace(findings[number], harm=("accepted on vault.open",)),
    )
    for one in doctored:
        assert faults(ATTACKS, [*findings[:number], one, *findings[number + 1 :]], trade)
    assert faults(ATTACKS, [*findings[:number], *findings[number + 1 :]], trade)


@pytest.mark.parametrize("count", ["accepted", "reserved", "shipped", "seen"])
@pytest.mark.parametrize("by", [-1, 1])
def test_an_order_lost_or_too_many_is_noticed(count: str, by: int) -> None:
    findings, trade = held()
    changed: dict[str, Any] = {count: getattr(trade, count) + by}
    assert faults(ATTACKS, findings, replace(trade, **changed))


def test_an_order_handled_twice_is_noticed() -> None:
    findings, trade = held()
    assert faults(ATTACKS, findings, replace(trade, doubled=1))


@pytest.mark.parametrize(
    "stored", [{"vault.open": 1}, {"orders.placed": 31}, {"orders.shipped": 29}]
)
def test_a_message_too_many_or_too_few_in_the_stream_is_noticed(stored: dict[str, int]) -> None:
    findings, trade = held()
    assert faults(ATTACKS, findings, replace(trade, stored={**trade.stored, **stored}))


def test_missing_stock_is_noticed() -> None:
    findings, trade = held()
    assert faults(
        ATTACKS, findings, replace(trade, stock_after={**trade.stock_after, "TEA-0001": 1})
    )


def test_a_bus_that_did_not_hold_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.robbery import __main__ as program
    from examples.robbery.director import Outcome

    findings, trade = held()
    findings[0] = replace(findings[0], where=None, why="a session was granted")

    async def perform(folder: Path, orders: list[dict[str, Any]]) -> Outcome:
        (folder / "logs").mkdir()
        return Outcome(findings, trade, [])

    monkeypatch.setattr(program, "_perform", perform)
    monkeypatch.setattr(sys, "argv", ["robbery"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert program.main() == 1
    shown = capsys.readouterr()
    assert "WRONG: connect without a key: was not stopped by admission" in shown.out
    assert "the logs are in" in shown.err
