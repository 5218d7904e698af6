"""Rules for the options of every command."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.core import ParameterSource

from sealbus_broker.cli.main import cli
from sealbus_broker.cli.shared.options import all_commands
from tests.cli.command import sealbus

COMMANDS = dict(all_commands(cli))


def options() -> Iterator[tuple[str, tuple[str, ...], click.Option, str]]:
    """Every option of every command, with its environment variable by the documents' rule."""
    for words, command in COMMANDS.items():
        for option in command.params:
            if isinstance(option, click.Option):
                for spelled in option.opts:
                    if spelled.startswith("--"):
                        name = f"SEALBUS_{'_'.join(words)}_{spelled[2:]}".upper().replace("-", "_")
                        yield " ".join((*words, spelled)), words, option, name


OPTIONS = list(options())


def value_for(option: click.Option) -> str:
    if option.is_flag:
        return "1"
    if isinstance(option.type, click.Choice):
        return str(option.type.choices[-1])
    if isinstance(option.type, click.IntRange):
        return str(min(7, option.type.max or 7))
    if option.name == "servers":
        return "nats://127.0.0.1:4222"
    if option.metavar in ("TIME", "DURATION"):
        return {"TIME": "2026-11-24T08:00:00Z", "DURATION": "30m"}[option.metavar]
    return "00112233445566778899aabbccddeeff" if option.name == "nonce" else "7.5"


def parsed(words: tuple[str, ...], *arguments: str) -> click.Context:
    command = COMMANDS[words]
    context = click.Context(cli, info_name="sealbus")
    for word in words[:-1]:
        group = cli.get_command(context, word)
        assert group is not None
        context = click.Context(group, parent=context, info_name=word)
    needed = ["1" for one in command.params if isinstance(one, click.Argument) and one.required]
    return command.make_context(words[-1], [*needed, *arguments], parent=context)


@pytest.mark.parametrize(
    ("words", "option", "name"), [one[1:] for one in OPTIONS], ids=[one[0] for one in OPTIONS]
)
def test_every_option_can_be_given_by_environment(
    words: tuple[str, ...], option: click.Option, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert option.name is not None
    for other in list(os.environ):
        if other.startswith("SEALBUS"):
            monkeypatch.delenv(other)
    long = next(spelled for spelled in option.opts if spelled.startswith("--"))
    by_argument = parsed(words, long, *([] if option.is_flag else [value_for(option)]))
    monkeypatch.setenv(name, value_for(option))
    by_environment = parsed(words)
    assert by_environment.get_parameter_source(option.name) is ParameterSource.ENVIRONMENT
    assert by_environment.params == by_argument.params


def test_the_names_of_all_options_differ() -> None:
    names = [name for *_, name in OPTIONS]
    assert len(names) == len(set(names))


def test_every_option_and_command_has_a_help_text() -> None:
    for words, command in COMMANDS.items():
        assert command.help, words
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, (words, option.name)


def test_init_takes_the_address_that_its_help_names(above: Path) -> None:
    help_text = sealbus("init", "--help", cwd=above).out
    found = re.search(r"\[default:\s+(nats://\S+)\]", help_text)
    assert found is not None, help_text
    assert f'servers = ["{found[1]}"]' in (above / "mybus/bus.toml").read_text()


def test_folder_and_credentials_have_one_name_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALBUS_DIR", "somewhere")
    monkeypatch.setenv("SEALBUS_CREDENTIALS", "file")
    for words, command in COMMANDS.items():
        given = parsed(words).params
        names = {option.name: set(option.opts) for option in command.params}
        if words != ("init",) and "--dir" in names.get("folder", ()):
            assert given["folder"] == "somewhere", words
        if "credentials" in given:
            assert given["credentials"] == "file", words


@pytest.mark.parametrize(
    "name", ["SEALBUS_VERSION", "SEALBUS_HELP", "SEALBUS_KEYS_HELP", "SEALBUS_KEYS_LS_HELP"]
)
def test_no_variable_keeps_a_command_from_its_work(name: str, above: Path) -> None:
    """`sealbus keys revoke --wait` in a script must not succeed without its work."""
    listed = sealbus("keys", "ls", cwd=above, variables={name: "1"})
    assert (listed.code, "greeter" in listed.out) == (0, True)


@pytest.fixture(scope="module")
def above(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new bus in it."""
    folder = tmp_path_factory.mktemp("above")
    assert sealbus("init", "mybus", cwd=folder).code == 0
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("pub", "a.b"),
        ("pub", "a.b", "{}", "--file", "-"),
        ("pub", "a.b", "{nonsense"),
        ("pub", "a.b", "{}", "--timeout", "nan"),
        ("pub", "a.b", "{}", "--timeout", "0"),
        ("pub", "a.b", "{}", "--timeout", "inf"),
        ("pub", "a.b", "{}", "--nonce", "00"),
        ("pub", "a.b", "--file", "-", "--nonce", "00" * 16),
        ("pub", "a.b", "{}", "--from-line", "2"),
        ("request", "a.b", "{nonsense"),
        ("sub", "a.b", "--count", "0"),
        ("sub", "a.b", "--from", "nowhere"),
        ("init", "Not A Name"),
        ("prepare", "--listen", "nowhere"),
        ("up", "--sync", "2 minutes"),
        ("quarantine", "show", "0"),
        ("quarantine", "ls", "--bot", "Bad Name"),
        ("quarantine", "ls", "--subject", "a..b"),
        ("subscriptions", "ls", "--of", "Bad Name"),
        ("nothing",),
        ("keys", "nothing"),
        ("pub",),
    ],
)
def test_a_wrong_command_line_exits_2(arguments: tuple[str, ...], above: Path) -> None:
    done = sealbus(*arguments, cwd=above)
    assert done.code == 2, done.err
    assert done.out == ""
    assert "rror" in done.err


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (("ping", "--nothing", "--json"), {}),
        (("ping", "--json", "--timeout", "0"), {}),
        (("ping", "--timeout", "0"), {"SEALBUS_PING_JSON": "1"}),
        (("pub", "a.b", "{}", "--json"), {}),
        (("keys", "nothing", "--json"), {}),
        (("nothing", "--json"), {}),
    ],
)
def test_a_wrong_command_line_is_an_object_with_json(
    arguments: tuple[str, ...], variables: dict[str, str], above: Path
) -> None:
    done = sealbus(*arguments, cwd=above, variables=variables)
    row = json.loads(done.out)
    assert (done.code, row["error"]) == (2, "UsageError")
    assert row["what"] in done.err
    command = " ".join(["sealbus", *(one for one in arguments[:1] if one != "nothing")])
    assert row["hint"] == f"`{command} --help` shows how to use it"


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (("pub", "--nonce", "0", "--", "--json"), {}),
        (("ping", "--timeout", "0"), {"SEALBUS_PING_JSON": "perhaps"}),
        (("ping", "--timeout", "0"), {"SEALBUS_PUB_JSON": "1"}),
    ],
)
def test_a_wrong_command_line_without_json_is_no_object(
    arguments: tuple[str, ...], variables: dict[str, str], above: Path
) -> None:
    done = sealbus(*arguments, cwd=above, variables=variables)
    assert (done.code, done.out) == (2, "")


def test_the_version_names_its_program() -> None:
    from importlib.metadata import version

    import sealbus as library

    done = sealbus("--version", cwd=Path.cwd())
    assert re.fullmatch(r"sealbus \d+\.\d+\.\d+\S*\n", done.out)
    assert done.out == f"sealbus {library.__version__}\n"
    assert library.__version__ == version("sealbus")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: str) -> None:
    script = sealbus(cwd=Path.cwd(), variables={"_SEALBUS_COMPLETE": f"{shell}_source"})
    assert (script.code, "_SEALBUS_COMPLETE" in script.out) == (0, True)
    words = {"COMP_WORDS": "sealbus quarantine sh", "COMP_CWORD": "2" if shell != "fish" else "sh"}
    found = sealbus(cwd=Path.cwd(), variables={"_SEALBUS_COMPLETE": f"{shell}_complete", **words})
    assert (found.code, "show" in found.out) == (0, True)
