"""The content of the files that a release would upload."""

from __future__ import annotations

import re
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from tests.packaging.release import Built, build

PACKAGES = {"sealbus": "clients/python/sealbus", "sealbus_broker": "broker/sealbus_broker"}


def _contents(archive: Path) -> dict[str, bytes]:
    """Path -> content of every file; a source distribution's paths without its top folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(archive) as sdist:
        return {
            str(PurePosixPath(*PurePosixPath(member.name).parts[1:])): file.read()
            for member in sdist.getmembers()
            if (file := sdist.extractfile(member)) is not None
        }


def _package_files(root: Path) -> set[str]:
    """The files of the packages, by their names after an installation."""
    return {
        f"{package}/{file.relative_to(root / folder)}"
        for package, folder in PACKAGES.items()
        for file in (root / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_wheel_holds_the_two_packages_and_its_own_records(built: Built) -> None:
    folders = {PurePosixPath(name).parts[0] for name in _contents(built.wheel)}
    assert folders == {*PACKAGES, "sealbus-0.1.0.dist-info"}


def test_the_wheel_misses_no_file_of_the_packages(built: Built, root: Path) -> None:
    assert {name for name in _contents(built.wheel) if ".dist-info/" not in name} == _package_files(
        root
    )


def test_both_packages_say_that_they_are_typed(built: Built) -> None:
    assert {"sealbus/py.typed", "sealbus_broker/py.typed"} <= _contents(built.wheel).keys()


def test_the_licence_travels_along(built: Built, root: Path) -> None:
    licence = (root / "LICENSE").read_bytes()
    assert _contents(built.wheel)["sealbus-0.1.0.dist-info/licenses/LICENSE"] == licence
    assert _contents(built.sdist)["LICENSE"] == licence


def test_the_metadata_names_a_light_client_and_its_extras(built: Built) -> None:
    metadata = Parser().parsestr(
        _contents(built.wheel)["sealbus-0.1.0.dist-info/METADATA"].decode()
    )
    always = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    names = {re.split(r"[<>=~]", line, maxsplit=1)[0] for line in always}
    assert names == {"msgpack", "nats-py", "orjson", "ormsgpack", "pynacl"}
    assert sorted(metadata.get_all("Provides-Extra", [])) == ["broker", "pydantic"]
    assert metadata["License-Expression"] == "Apache-2.0"


def test_source_distribution_has_only_the_wheels_sources(built: Built, root: Path) -> None:
    expected = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO"}
    for package, folder in PACKAGES.items():
        expected |= {
            name.replace(package, folder, 1)
            for name in _package_files(root)
            if name.startswith(f"{package}/")
        }
    # hatchling adds the ignore file that it would obey on a build from the source distribution
    assert _contents(built.sdist).keys() - {".gitignore"} == expected


def test_the_version_is_said_once(root: Path) -> None:
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert declared == "0.1.0"
    assert f"## [{declared}]" in (root / "CHANGELOG.md").read_text()


PLACES = [
    ".sealbus/relay.toml",
    "credentials/order.toml",
    "relay.toml",
    "order.seed",
    "keys/order.seed",
    "keys/order.yaml",
    "examples/robbery/.sealbus/relay.toml",
    "docs/order.nk",
    "tests/order.toml",
    "broker/.sealbus/relay.toml",
    "broker/sealbus_broker/.sealbus/relay.toml",
    "broker/sealbus_broker/.sealbus/relay.json",
    "broker/sealbus_broker/credentials/order.toml",
    "broker/sealbus_broker/credentials/order.yaml",
    "broker/sealbus_broker/relay/relay.toml",
    "clients/python/credentials/order.toml",
    "clients/python/sealbus/credentials/order.toml",
    "clients/python/sealbus/credentials/order.py",
    "clients/python/sealbus/order.toml",
    "clients/python/sealbus/order.seed",
    "clients/python/sealbus/order.creds",
    "clients/python/sealbus/seed",
]


@pytest.mark.parametrize("from_tree", [False, True], ids=["wheel from sdist", "wheel from tree"])
def test_a_seed_anywhere_in_the_tree_reaches_neither_file(
    from_tree: bool, copy_of_tree: Path, tmp_path: Path
) -> None:
    seed = SigningKey.generate(KeyKind.BOT).seed_text
    for place in PLACES:
        file = copy_of_tree / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'bot = "order"\nseed = "{seed}"\n')
    built = build(copy_of_tree, tmp_path / "dist", wheel_from_tree=from_tree)
    for archive in (built.sdist, built.wheel):
        carriers = [
            name for name, content in _contents(archive).items() if seed.encode() in content
        ]
        assert carriers == [], archive.name


def test_the_search_for_seeds_finds_one(copy_of_tree: Path, tmp_path: Path) -> None:
    """The test above proves something only if a seed that does travel is found."""
    seed = SigningKey.generate(KeyKind.BOT).seed_text
    (copy_of_tree / "CHANGELOG.md").write_text(seed)
    contents = _contents(build(copy_of_tree, tmp_path / "dist").sdist)
    assert [name for name, content in contents.items() if seed.encode() in content] == [
        "CHANGELOG.md"
    ]
