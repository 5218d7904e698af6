"""The plugin in a project of a bot author's own, as docs/testing.md describes one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sealbus_broker.policy.scaffold import scaffold
from tests.waiting import PATIENCE_S

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "testing"
SETTINGS = '[tool.pytest.ini_options]\nsealbus_policy = "mybus"\nasyncio_mode = "auto"\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example's bot and tests, with the policy beside them."""
    scaffold(tmp_path / "mybus", "hello")
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    for name in ("listener.py", "test_listener.py"):
        text = (EXAMPLE / name).read_text().replace("examples.testing.", "")
        (tmp_path / name).write_text(text)
    return tmp_path


def run(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "pytest", "-p", "sealbus_broker.testing.plugin", *options)
    return subprocess.run(
        command,
        cwd=project,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_example_passes_in_a_project(project: Path) -> None:
    done = run(project)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_missing_policy_is_told(project: Path) -> None:
    done = run(project, "--sealbus-policy", "elsewhere")
    assert done.returncode == 1
    assert "there is no policy.yaml in" in done.stdout
    assert "set sealbus_policy in pytest's configuration" in done.stdout


def test_missing_libraries_are_told() -> None:
    program = "import sys; sys.modules['structlog'] = None; from sealbus.testing import TestBus"
    done = subprocess.run(
        (sys.executable, "-c", program),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "sealbus.testing needs the Python package 'structlog', which is not here" in done.stderr
    assert "pip install 'sealbus[broker]'" in done.stderr
