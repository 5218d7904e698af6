"""``sealbus bot``: add or remove a bot, with its policy entry, key and credentials in one step."""

from __future__ import annotations

import difflib
import os
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from sealbus.credentials import Credentials
from sealbus.errors import InvalidInput, SealbusError
from sealbus.file_hints import file_hint
from sealbus.protocol.subjects import check_pattern
from sealbus.text_file import decode_text
from sealbus_broker.cli.joining.invite import make as make_invitation
from sealbus_broker.cli.keys.files import (
    check_bot,
    make_key,
    note_certificates,
    the_bus,
)
from sealbus_broker.cli.shared.bus_options import dir_option, written_server_option
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import reading, writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.question import confirm
from sealbus_broker.cli.shared.talk import note
from sealbus_broker.policy.bot_entry import FILE, BotEntry, add_bot, bots_of, remove_bot
from sealbus_broker.policy.document import MAX_FILE_BYTES, KnownFiles, read_file
from sealbus_broker.policy.invitations import MAX_LIFE_MS
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.problems import Problem, nearest
from sealbus_broker.policy.replace import alone, replace_file

_FOLLOWED = "running relays follow, as `sealbus reload` shows"


@click.group()
def bot() -> None:
    """Add and remove bots."""


@bot.command("add")
@click.argument("name", metavar="BOT")
@click.option(
    "--publish",
    "-p",
    multiple=True,
    metavar="PATTERN",
    help="A pattern that it may publish on, or ask. May be repeated.",
)
@click.option(
    "--subscribe",
    "-s",
    multiple=True,
    metavar="PATTERN",
    help="A pattern that it may receive, or answer. May be repeated.",
)
@click.option(
    "--role",
    "-r",
    "roles",
    multiple=True,
    metavar="ROLE",
    help="A role of policy.yaml. May be repeated.",
)
@click.option(
    "--out", metavar="FILE", help="File for the credentials. [default: DIR/credentials/BOT.toml]"
)
@click.option(
    "--invite",
    "is_invited",
    is_flag=True,
    help="Make no key: print a token for `sealbus join`, as `sealbus invite` does.",
)
@click.option(
    "--approve",
    is_flag=True,
    help="With --invite: enrol the key only when `sealbus invites accept` has confirmed it.",
)
@written_server_option
@dir_option
def add(
    name: str,
    publish: tuple[str, ...],
    subscribe: tuple[str, ...],
    roles: tuple[str, ...],
    out: str | None,
    is_invited: bool,
    approve: bool,
    servers: tuple[str, ...],
    folder: str | None,
) -> None:
    """Add BOT to the bus: grants, key and credentials.

    The command writes the grants to policy.yaml and the public key to keys/. It prints the path of
    the credentials file. A bot needs --publish to publish, or to ask on a live subject. It needs
    --subscribe to receive, or to answer. The rest of policy.yaml stays as it is, with its comments.
    If a relay would not load the folder afterwards, nothing is changed. With --invite, the host of
    the bot makes the key and the credentials, and the command prints a token for it.
    """
    if is_invited and out is not None:
        raise click.UsageError("--out has no meaning with --invite: no credentials are made here")
    if approve and not is_invited:
        raise click.UsageError("--approve needs --invite: a key that is made here is approved")
    for pattern in (*publish, *subscribe):
        check_pattern(pattern)
    bus = BusFolder.find(folder)
    check_bot(name)
    facts = the_bus(bus, servers)
    path = bus.path / FILE
    with alone(bus.path):
        before = _policy_text(bus)
        after = add_bot(before, name, BotEntry(roles, publish, subscribe))
        _try(bus, after, added=name)
        with writing(path):
            replace_file(path, after)
    invited = None
    try:
        if is_invited:
            invited = make_invitation(bus, name, facts, life_ms=MAX_LIFE_MS, approve=approve)
            made = invited.token.encode()
        else:
            made = str(make_key(bus, name, facts, datetime.now(UTC), Path(out) if out else None))
    except BaseException:
        if not _put_back(bus, name, before, after):
            click.echo(
                f"{path} still declares {name}, without a key: `sealbus bot rm {name}` removes it",
                err=True,
            )
        raise
    click.echo(made)
    click.echo(f"added {name} to {path}; {_FOLLOWED}", err=True)
    if invited is not None:
        invited.tell()
    else:
        note_certificates(bus, Credentials.load(made))


@bot.command("rm")
@click.argument("name", metavar="BOT")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show the changes, and make none.")
@dir_option
def rm(name: str, yes: bool, dry_run: bool, folder: str | None) -> None:
    """Remove BOT from policy.yaml, with its public keys and its credentials file.

    The command shows the changes, and asks first. Running relays then end the bot's sessions, and
    delete its durable subscriptions.
    """
    bus = BusFolder.find(folder)
    check_bot(name)
    before = _policy_text(bus)
    files = _files(bus, name)
    declared = bots_of(before)
    if name not in declared and not files:
        raise Unusable(f"there is no bot {name}", hint=nearest(name, declared))
    after = remove_bot(before, name) if name in declared else before
    known = KnownFiles()  # a large bus has a thousand files, which are taken apart once
    if (
        load(bus.path, known=known).policy is not None
    ):  # else it has problems already, which must not keep a bot in it
        _try(bus, after, without=name, known=known)
    for line in difflib.unified_diff(
        before.splitlines(), after.splitlines(), FILE, FILE, lineterm="", n=1
    ):
        click.echo(click.style(line, fg="red" if line.startswith("-") else None), err=True)
    for file in files:
        click.echo(f"delete {file}", err=True)
    if dry_run:
        return
    confirm(f"Remove {name}?", yes=yes)
    with alone(bus.path):
        if _policy_text(bus) != before:
            raise _changed(bus.path / FILE, "changed")
        # A key file that is left behind would keep relays from following the folder.
        for file in {*files} ^ {*_files(bus, name)}:
            raise _changed(file, "disappeared" if file in files else "appeared")
        _remove(bus, name, files, after)
    click.echo(f"removed {name}; {_FOLLOWED}", err=True)


def _files(bus: BusFolder, name: str) -> list[Path]:
    """The files of a bot that are there."""
    own = (bus.path / "keys" / f"{name}.yaml", bus.credentials(name))
    return [path for path in own if _there(path)]


def _changed(file: Path, how: str) -> Unusable:
    return Unusable(f"{file} has {how} since the command showed its changes", hint="say it again")


def _remove(bus: BusFolder, name: str, files: list[Path], policy: str) -> None:
    # The keys first: without them a bot is not admitted, even if the rest fails. And relays
    # refuse a folder that has a key file of an unknown bot.
    done: list[Path] = []
    try:
        for file in files:
            with writing(file):
                file.unlink()
            done.append(file)
        with writing(bus.path / FILE):
            replace_file(bus.path / FILE, policy)
    except BaseException:
        gone = ", ".join(f"{file}" for file in done) or "nothing"
        click.echo(f"deleted {gone}; `sealbus bot rm {name}` goes on with the rest", err=True)
        raise


def _put_back(bus: BusFolder, name: str, before: str, after: str) -> bool:
    """Take a bot out of policy.yaml again. Return whether it is out.

    It stays where another command has changed the file since.
    """
    try:
        with alone(bus.path):
            now = _policy_text(bus)
            if now == after:
                replace_file(bus.path / FILE, before)
            return now == after or name not in bots_of(now)
    except (OSError, SealbusError):
        return False


def _policy_text(bus: BusFolder) -> str:
    path = bus.path / FILE
    content = read_file(bus.path, FILE)
    if isinstance(content, Problem):
        raise Unusable(str(replace(content, hint=None)), hint=content.hint)
    try:
        return decode_text(content)
    except InvalidInput as error:
        raise Unusable(f"{path}: {error.what}", hint=error.hint) from None


def _copy(bus: BusFolder, root: Path, folder: str, *left_out: str) -> None:
    """Copy a folder of the bus, and of each file as much as a loader reads. Raises
    :class:`Unusable`."""
    source, target = bus.path / folder, root / folder
    ignored = shutil.ignore_patterns(*left_out)
    with reading(source):
        if not source.is_dir():
            return
        shutil.copytree(source, target, symlinks=True, ignore=ignored, copy_function=_copy_file)
    # The target of a link may be outside of the copy, so the copy has its content instead. A link
    # that a loader does not follow stays a link.
    links = [path for path in target.iterdir() if path.is_symlink()]
    for link in links:
        content = read_file(bus.path, f"{folder}/{link.name}")
        if isinstance(content, bytes):
            link.unlink()
            link.write_bytes(content)


def _copy_file(source: str, target: str) -> None:
    # Neither OSError goes to copytree(), which would join it to others without a number. A pipe
    # opens at once, and is empty.
    with reading(source):
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123  # it is a descriptor, and no path
            content = file.read(MAX_FILE_BYTES + 1)
    with writing("a temporary folder"):
        Path(target).write_bytes(content)


def _there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}", hint=file_hint(error)) from None
    return True


def _try(
    bus: BusFolder,
    policy: str,
    *,
    added: str | None = None,
    without: str | None = None,
    known: KnownFiles | None = None,
) -> None:
    """Load a copy of the folder with another policy.

    Raises with every problem. Shows notes about ``added``.
    """
    with writing("a temporary folder"), tempfile.TemporaryDirectory(prefix="sealbus-") as copy:
        root = Path(copy)
        (root / FILE).write_text(policy, encoding="utf-8", newline="")
        _copy(bus, root, "schemas")
        _copy(bus, root, "keys", *([] if without is None else [f"{without}.yaml"]))
        loaded = load(root, known=known)
    if loaded.policy is None:
        for problem in loaded.problems:
            click.echo(str(problem), err=True)
        raise Unusable(
            "a relay would not load the folder after this change", hint="nothing was changed"
        )
    for one in loaded.notes:
        if added is not None and one.what.startswith(f"{added} may "):
            note(str(one))
