"""A command that asks a person first: it goes on after a yes alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import SEALBUS
from tests.cli.folders import everything
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

COMMAND = (*SEALBUS, "bot", "rm", "clock")


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"y\n", 0, "removed clock"),
        (b"n\n", 1, "error: the answer was no, so nothing was done"),
        (b"\n", 1, "error: the answer was no, so nothing was done"),
        (b"\x04", 1, "error: there is nobody to answer the question"),
    ],
    ids=["yes", "no", "a line without a word", "the end of the input"],
)
def test_answer_at_a_terminal_decides(bus: Path, answer: bytes, code: int, said: str) -> None:
    before = everything(bus)
    ours, theirs = os.openpty()
    try:
        os.write(ours, answer)
        ran = subprocess.run(
            COMMAND, cwd=bus, stdin=theirs, capture_output=True, timeout=PATIENCE_S, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (ran.returncode, said in ran.stderr.decode()) == (code, True), ran.stderr.decode()
    assert (everything(bus) == before) is (code != 0)


def test_closed_input_is_nobody(bus: Path) -> None:
    before = everything(bus)
    ran = subprocess.run(
        COMMAND,
        cwd=bus,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=lambda: os.close(0),
    )
    assert (ran.returncode, "give --yes" in ran.stderr.decode()) == (2, True), ran.stderr.decode()
    assert everything(bus) == before
