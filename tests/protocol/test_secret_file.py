"""Files with private keys: their accepted modes and mounts. Their content is never shown."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealbus.credentials import Credentials
from sealbus.errors import CredentialsError, InvalidInput, SealbusError
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.secret_file import SecretFile, exposed

FILE = SecretFile(1000, CredentialsError, missing="make one", exposed="or do otherwise")
ME, ROOT = 10_001, 0
MINE, OTHERS = 2000, 3000


def status(mode: int, user: int, group: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, user, group, 1, 0, 0, 0))


@pytest.mark.parametrize(
    ("mode", "user", "group", "told"),
    [
        (0o600, ME, MINE, False),
        (0o400, ME, MINE, False),
        (0o400, ROOT, ROOT, False),
        (0o440, ROOT, MINE, False),  # Kubernetes with fsGroup
        (0o640, ROOT, MINE, False),
        (0o440, ROOT, OTHERS, True),
        (0o440, ME, MINE, True),  # its owner can do better
        (0o460, ROOT, MINE, True),  # the group may change it
        (0o450, ROOT, MINE, True),
        (0o444, ROOT, MINE, True),
        (0o404, ROOT, MINE, True),
        (0o604, ME, MINE, True),
        (0o602, ME, MINE, True),
        (0o620, ROOT, MINE, True),
        (0o777, ROOT, MINE, True),
    ],
)
def test_who_may_read_beside_the_owner(mode: int, user: int, group: int, told: bool) -> None:
    assert exposed(status(mode, user, group), ME, {MINE}) is told


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with ``secret`` in it, mounted read-only, as a container gets it."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / "secret").write_text("text")
    (folder / "secret").chmod(0o444)
    try:
        mounted = subprocess.run(
            ["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(
            ["mount", "-o", "remount,bind,ro", str(folder)], capture_output=True, check=True
        )
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_read_only_mount_may_have_any_mode(read_only: Path) -> None:
    assert FILE.read(read_only / "secret") == b"text"


def test_the_same_mode_elsewhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("text")
    path.chmod(0o444)
    with pytest.raises(CredentialsError, match="mode 0444") as told:
        FILE.read(path)
    assert told.value.hint == f"chmod 600 {path}, or do otherwise"


def test_credentials_hint_names_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "order.toml"
    path.write_text("bus = 1")
    path.chmod(0o644)
    with pytest.raises(CredentialsError) as told:
        Credentials.load(path)
    assert "SEALBUS_SEED" in str(told.value.hint)
    assert "read-only" in str(told.value.hint)


def test_half_a_secret_is_taken_away_again(tmp_path: Path) -> None:
    """A limit on the size of files ends a write in the same way as a full disk."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from sealbus.errors import CredentialsError\n"
        "from sealbus.secret_file import SecretFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))\n"
        "path = Path(sys.argv[1])\n"
        "try:\n"
        "    SecretFile(9, CredentialsError, missing='', exposed='').write(path, 'much longer')\n"
        "except CredentialsError as error:\n"
        "    assert 'cannot be written: File too large' in error.what, error.what\n"
        "    assert not path.exists()\n"
        "    sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "secret")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr


@pytest.mark.parametrize("kind", list(KeyKind))
@pytest.mark.parametrize("error", [SealbusError, InvalidInput, CredentialsError])
def test_no_error_shows_a_seed(kind: KeyKind, error: type[SealbusError]) -> None:
    seed = SigningKey.generate(kind).seed_text
    for cut in (seed, seed[:-3], seed + "A"):
        raised = error(f"bot name {cut!r} is not valid", hint=f"try {cut}.toml")
        shown = f"{raised} {raised!r} {raised.what} {raised.hint} {raised.args}"
        assert cut[2:] not in shown
        assert "a seed, not shown" in raised.what


@pytest.mark.parametrize("kind", list(KeyKind))
def test_public_keys_are_shown(kind: KeyKind) -> None:
    for _ in range(50):
        text = SigningKey.generate(kind).public.text
        assert text in SealbusError(f"the key {text} is not known").what


def test_help_does_not_show_the_environment() -> None:
    """``help()`` prints defaults.

    If the environment were a default, its secrets would be printed.
    """
    program = (
        "import importlib, inspect, pkgutil, pydoc, sealbus, sealbus_broker\n"
        "for package in (sealbus, sealbus_broker):\n"
        "    for found in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        module = importlib.import_module(found.name)\n"
        "        print(pydoc.plain(pydoc.render_doc(module)))\n"
        "print(pydoc.plain(pydoc.render_doc(sealbus)))\n"
    )
    secret = "canary-of-this-process"
    environment = {**os.environ, "SEALBUS_SEED": secret}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "from_environment" in done.stdout
    assert secret not in done.stdout


def test_a_file_may_be_as_large_as_its_limit_and_no_larger(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    file.write_bytes(bytes(FILE.most))
    assert len(FILE.read(file)) == FILE.most
    with file.open("wb") as opened:
        opened.truncate(2**40)
    with pytest.raises(CredentialsError, match="larger than 1000 bytes, so it is not the file"):
        FILE.read(file)
    file.write_bytes(bytes(FILE.most + 1))
    with pytest.raises(CredentialsError, match="larger than 1000 bytes"):
        FILE.read(file)
