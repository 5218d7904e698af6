"""The build of a release, and fresh environments in which the tests install it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]

# Files on a developer's disk that are in no checkout. Seeds stay: a build must not take them.
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv", ".venv-*", "__pycache__", ".*_cache", "dist", "build", ".hypothesis"
)


@dataclass(frozen=True, slots=True)
class Built:
    """The two files that a release would upload."""

    sdist: Path
    wheel: Path


@dataclass(frozen=True, slots=True)
class Environment:
    """A fresh environment, isolated from the one in which the tests run."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one of its commands, in its own folder.

        The variables do not point to this checkout.
        """
        program, *arguments = command
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder,
            env={**_clean_environment(), "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


def _clean_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV", "SEALBUS"))
    }


def build(tree: Path, folder: Path, *, wheel_from_tree: bool = False) -> Built:
    """Build into ``folder`` as a release does: the source distribution, and from that the wheel.

    With ``wheel_from_tree`` a second wheel is built from the tree, as ``pip install .`` does.
    """
    both = ["--sdist", "--wheel"] if wheel_from_tree else []
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *both, "--outdir", folder, tree],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Built(sdist, wheel)


def install(folder: Path, requirement: str) -> Environment:
    """Make an environment in ``folder``, and install one thing with its dependencies."""
    environment = Environment(folder)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", folder], timeout=PATIENCE_S, check=True
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            environment.python,
            "install",
            "-q",
            "--disable-pip-version-check",
            requirement,
        ],
        env={**_clean_environment(), "PIP_ROOT_USER_ACTION": "ignore"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return environment
