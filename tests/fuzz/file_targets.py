"""The targets that read files: policies, schemas, keys, credentials and ``bus.toml``."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from sealbus.credentials import Credentials
from sealbus.errors import CredentialsError
from sealbus_broker.policy.bus_file import read_bus_file
from sealbus_broker.policy.keys import read_key_files
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.schemas.files import read_schemas
from tests.policy.folder import Folder


def showable(problem: Problem) -> None:
    assert all(line.isprintable() for line in str(problem).split("\n"))


@cache
def folder() -> Folder:
    """One folder for all targets, in memory if possible."""
    # The folder in it is made for this user alone.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    root = Path(tempfile.mkdtemp(prefix="sealbus-fuzz-", dir=place))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return Folder(root)


def in_folder(
    file: str, alone: Callable[[Path], list[Problem]] | None = None
) -> Callable[[bytes], None]:
    """``alone`` reads this file only.

    If it finds a problem, the whole folder is not read, because that takes ten times as long.
    """

    def run(data: bytes) -> None:
        made = folder()
        before = (made.root / file).read_bytes() if (made.root / file).exists() else None
        made.write(file, data)
        try:
            problems = alone(made.root) if alone is not None else []
            loaded = None if problems else load(made.root)
        finally:
            if before is None:
                (made.root / file).unlink()
            else:
                made.write(file, before)
        if loaded is None:
            for problem in problems:
                showable(problem)
            return
        for problem in (*loaded.problems, *loaded.notes):
            showable(problem)
        assert (loaded.policy is None) == bool(loaded.problems)
        rule = loaded.policy.rule("orders.placed") if loaded.policy else None
        for schema in rule.schemas.values() if rule else ():
            for value in (None, 1, "a", [1, [1]], {"a": {"a": 1}}):
                assert schema.is_valid(value) is (schema.faults(value, most=8) == ())

    return run


def schemas_alone(root: Path) -> list[Problem]:
    problems: list[Problem] = []
    read_schemas(root, problems)
    return problems


def keys_alone(root: Path) -> list[Problem]:
    problems: list[Problem] = []
    read_key_files(root, frozenset({"order"}), problems)
    return problems


def credentials(data: bytes) -> None:
    path = folder().root / "c.toml"
    path.write_bytes(data)
    path.chmod(0o600)
    with contextlib.suppress(CredentialsError):
        Credentials.load(path)


def bus_file(data: bytes) -> None:
    folder().write("bus.toml", data)
    problems: list[Problem] = []
    read = read_bus_file(folder().root, problems)
    assert (read is None) == bool(problems)
    for problem in problems:
        showable(problem)
