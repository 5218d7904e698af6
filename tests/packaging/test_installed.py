"""The wheel in its own environment: first for the builder of a bot, then for an operator."""

from __future__ import annotations

import json
import re

import pytest

from tests.packaging.release import Environment

pytestmark = pytest.mark.timeout(400)  # the first test waits for the installation

_IMPORT_ALL = """
import importlib, pkgutil, {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    # pytest loads its plugin, and is no part of the extra.
    if not module.name.endswith((".__main__", ".testing.plugin")):
        importlib.import_module(module.name)
        print(module.name)
"""

_LIST = """
import importlib.metadata, json
print(json.dumps(sorted(found.name.lower() for found in importlib.metadata.distributions())))
"""


def test_the_client_brings_five_libraries(light: Environment) -> None:
    listed = light.run("python", "-c", _LIST)
    # PyNaCl reaches libsodium through cffi and pycparser. msgpack or PyNaCl needs typing-extensions
    # on some versions.
    assert set(json.loads(listed.stdout)) - {
        "cffi",
        "pycparser",
        "typing-extensions",
        "typing_extensions",
    } == {
        "msgpack",
        "nats-py",
        "orjson",
        "ormsgpack",
        "pynacl",
        "sealbus",
    }


def test_every_module_of_the_client_imports_without_the_broker(light: Environment) -> None:
    done = light.run("python", "-W", "error", "-c", _IMPORT_ALL.format(package="sealbus"))
    assert done.returncode == 0, done.stderr
    assert "sealbus.bot" in done.stdout.split()


def test_importing_the_client_loads_nothing_of_the_broker(light: Environment) -> None:
    done = light.run("python", "-c", "import sealbus, sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    assert "sealbus_broker" not in done.stdout.split()


@pytest.mark.parametrize(
    "command", [["sealbus", "up"], ["sealbus", "--help"], ["python", "-m", "sealbus_broker"]]
)
def test_command_without_the_extra_names_it(light: Environment, command: list[str]) -> None:
    done = light.run(*command)
    assert done.returncode == 1
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert "pip install 'sealbus[broker]'" in hint


def test_every_module_of_the_broker_imports_with_the_extra(full: Environment) -> None:
    done = full.run("python", "-c", _IMPORT_ALL.format(package="sealbus_broker"))
    assert done.returncode == 0, done.stderr
    assert "sealbus_broker.gate.judge" in done.stdout.split()


def test_the_command_says_its_version(full: Environment) -> None:
    done = full.run("sealbus", "--version")
    assert done.returncode == 0, done.stderr
    assert re.search(r"\b0\.1\.0\b", done.stdout)


@pytest.mark.parametrize("command", [["sealbus"], ["python", "-m", "sealbus_broker"]])
def test_the_command_explains_itself(full: Environment, command: list[str]) -> None:
    done = full.run(*command, "--help")
    assert done.returncode == 0, done.stderr
    for subcommand in ("up", "relay", "init", "keys", "check", "pub", "sub", "quarantine"):
        assert re.search(rf"^\W*{subcommand}\b", done.stdout, re.MULTILINE), subcommand


def test_the_extra_brings_a_nats_server(full: Environment) -> None:
    done = full.run("nats-server", "--version")
    assert done.returncode == 0, done.stderr
    assert "v2." in done.stdout


def test_a_new_bus_loads(full: Environment) -> None:
    """The installed package finds its templates and built-in schemas too, not only a checkout."""
    made = full.run("sealbus", "init", "mybus")
    assert made.returncode == 0, made.stderr
    checked = full.run("sealbus", "check", "--dir", "mybus")
    assert checked.returncode == 0, checked.stderr
