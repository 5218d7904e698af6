"""The soak counts the passed tests, names the unstable ones, and leaves no load behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak.__main__ import ROOT, loads
from tests.soak.load import busy
from tests.waiting import PATIENCE_S

FLICKERS = """
from pathlib import Path

seen = Path(__file__).with_name("seen")

def test_that_passes():
    pass

def test_that_fails_the_second_time():
    assert not seen.exists()
    seen.touch()
"""


def soak(tmp_path: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "tests.soak", "--folder", str(tmp_path / "soak"), *options]
    return subprocess.run(
        [
            *command,
            "--",
            "-n",
            "0",
            "-c",
            str(tmp_path / "pytest.ini"),
            str(tmp_path / "test_it.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_unstable_test_is_named_in_its_run(tmp_path: Path) -> None:
    done = soak(tmp_path, FLICKERS, "--runs", "2", "--loaded", "1", "--busy", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    head, first, second, *rest = done.stdout.splitlines()
    assert head.split() == ["run", "load", "seconds", "passed", "failed", "skipped", "which"]
    assert first.split()[:2] + first.split()[3:] == ["1", "0", "2", "0", "0", "all", "passed"]
    assert second.split()[:2] + second.split()[3:6] == ["2", "1", "1", "1", "0"]
    assert "test_that_fails_the_second_time" in second
    assert rest[0].startswith("without load: 1 of 1 green")
    assert rest[1].startswith("under load: 0 of 1 green")
    assert rest[2].startswith("failed in 1 of 2 runs: ")


def test_with_json_each_run_is_an_object(tmp_path: Path) -> None:
    done = soak(tmp_path, FLICKERS, "--runs", "1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = map(json.loads, done.stdout.splitlines())
    assert (row["number"], row["load"], row["passed"], row["failures"]) == (1, 0, 2, [])
    assert row["green"] is True


@pytest.mark.parametrize("test", ["", "raise SystemExit(3)", "import os\nos._exit(0)"])
def test_a_run_that_runs_nothing_is_not_green(tmp_path: Path, test: str) -> None:
    done = soak(tmp_path, test, "--runs", "1", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["green"] is False


@pytest.mark.parametrize(
    ("runs", "loaded", "expected"),
    [(4, 2, [0, 2, 0, 2]), (3, 0, [0, 0, 0]), (2, 2, [2, 2]), (5, 1, [0, 0, 0, 0, 2])],
)
def test_load_is_spread_evenly(runs: int, loaded: int, expected: list[int]) -> None:
    assert loads(runs, loaded, 2) == expected


def test_load_ends_with_its_run() -> None:
    with busy(2) as pids:
        assert len(pids) == 2
        assert all(Path(f"/proc/{pid}").exists() for pid in pids) or sys.platform != "linux"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
