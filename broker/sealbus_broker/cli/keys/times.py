"""``sealbus keys show``, ``revoke``, ``void``, ``expire`` and ``rotate``: the times of keys.

All but ``rotate`` take ``sealbus`` for a bot, with the keys of the bus's session issuer.

They edit ``keys/BOT.yaml`` and keep its comments. A running bus follows the folder, so the change
is in force within a second. ``--wait`` shows that it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from sealbus.credentials import Credentials
from sealbus.protocol.keys import KeyKind, PublicKey, SigningKey
from sealbus.protocol.sender_links import SenderLink, parse_link
from sealbus.protocol.subjects import RELAY
from sealbus_broker.cli.keys.files import (
    check_bot,
    finish_key,
    make_key,
    note_certificates,
    the_bus,
)
from sealbus_broker.cli.keys.sender_links import kept_credentials, not_linked, old_credentials
from sealbus_broker.cli.shared.bus_options import (
    dir_option,
    server_option,
    written_server_option,
)
from sealbus_broker.cli.shared.errors import Unusable
from sealbus_broker.cli.shared.files import writing
from sealbus_broker.cli.shared.folder import BusFolder
from sealbus_broker.cli.shared.operator import table
from sealbus_broker.cli.shared.options import seconds
from sealbus_broker.cli.shared.talk import note
from sealbus_broker.cli.watching.reload import WAIT_S, ReloadWait
from sealbus_broker.escape import json_line, readable
from sealbus_broker.gate.policy import BotKey
from sealbus_broker.policy.keys import FOLDER, add_next_key, read_key_files, set_time
from sealbus_broker.policy.problems import nearest
from sealbus_broker.policy.reader import duration_ms, time_ms, time_text
from sealbus_broker.policy.sender_links import old_key

F = TypeVar("F", bound=Callable[..., Any])

LEAST_CHARS: Final = 8
"""How many characters of a key name it at least: 35 bits behind the U that all have."""

OVERLAP: Final = "1d"
"""How long the old key stays valid by default: a bot that is started once a day gets the new one in
time."""

LONGEST_DAYS: Final = 3650
"""The longest duration of an option: ten years, as long as the authority of certificates lives.
Dates end with the year 9999."""

HEAD: Final = ("key", "state", "from", "until", "revoked", "sessions from", "follows", "linked")


@dataclass(frozen=True, slots=True)
class _Key:
    """A key of a bot, as the commands show it."""

    text: str
    times: BotKey


def state_of(key: BotKey, now_ms: int) -> str:
    """The state of a key, in a word or two."""
    if key.revoked_ms is not None and key.revoked_ms <= now_ms:
        return "revoked"
    if key.not_after_ms is not None and key.not_after_ms < now_ms:
        return "expired"
    return "not yet" if key.not_before_ms > now_ms else "valid"


def _time(_: click.Context, __: click.Parameter, given: str | None) -> datetime | None:
    if given is None:
        return None
    if (found := time_ms(given)) is None:
        raise click.BadParameter(
            f"'{readable(given, 80)}' is not a time in UTC like 2026-11-24T08:00:00Z"
        )
    return _utc(found)


def read_duration(_: click.Context, __: click.Parameter, given: str | None) -> int | None:
    """Read an option such as ``--overlap`` into ms: at most :data:`LONGEST_DAYS`."""
    if given is None:
        return None
    if (found := duration_ms(given)) is None:
        raise click.BadParameter(f"'{readable(given, 80)}' is not a duration like 90s, 12h or 7d")
    if found > LONGEST_DAYS * 24 * 60 * 60 * 1000:
        raise click.BadParameter(f"'{readable(given, 80)}' is longer than {LONGEST_DAYS}d")
    return found


def wait_options(command: F) -> F:
    """``--wait`` and ``--timeout``, and ``--server`` for the wait."""
    return server_option(_wait(command))


def _wait(command: F) -> F:
    """``--wait`` and ``--timeout``."""
    command = click.option(
        "--timeout",
        type=seconds,
        default=WAIT_S,
        show_default=True,
        metavar="SECONDS",
        help="Longest wait of --wait.",
    )(command)
    return click.option(
        "--wait",
        is_flag=True,
        help="Return when the change is in force at all relays, and all sessions obey it.",
    )(command)


@click.command()
@click.argument("bot")
@dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a key, one a line.")
def show(bot: str, folder: str | None, as_json: bool) -> None:
    """Show the keys of BOT, with the times from when to when each is valid.

    "follows" is the old key that has signed the link to this one, and "linked" is the time of that.
    Subscribers that pin the old key follow the link.
    """
    now_ms = _ms(datetime.now(UTC))
    rows = [
        {
            "bot": bot,
            "key": key.text,
            "state": state_of(key.times, now_ms),
            "not_before": _text(key.times.not_before_ms),
            "not_after": _text(key.times.not_after_ms),
            "revoked": _text(key.times.revoked_ms),
            "sessions_from": _text(key.times.sessions_from_ms or None),
            "follows": old_key(key.times),
            "linked": _linked(key.times),
        }
        for key in _keys(BusFolder.find(folder), bot)
    ]
    if as_json:
        for row in rows:
            click.echo(json_line(row))
        return
    shown = (
        "key",
        "state",
        "not_before",
        "not_after",
        "revoked",
        "sessions_from",
        "follows",
        "linked",
    )
    for line in table(HEAD, [[row[name] or "-" for name in shown] for row in rows]):
        click.echo(line)


@click.command()
@click.argument("bot")
@click.argument("key", required=False)
@wait_options
@dir_option
def revoke(
    bot: str,
    key: str | None,
    servers: tuple[str, ...],
    wait: bool,
    timeout: float,
    folder: str | None,
) -> None:
    """Revoke KEY of BOT, or all its keys, now.

    Nothing that a revoked key seals is accepted any more, and its sessions end. KEY is a public key
    (U…), or its first eight characters or more. `sealbus keys show` lists them. Take `revoked` out
    of the file to undo it.
    """
    bus = BusFolder.find(folder)
    now = datetime.now(UTC)
    # An earlier time stays: a key that was revoked then must not become valid again until now.
    chosen = [
        one
        for one in _choose(_keys(bus, bot), bot, key)
        if one.times.revoked_ms is None or one.times.revoked_ms > _ms(now)
    ]
    if not chosen:
        click.echo(f"nothing to do: revoked before ({bot})", err=True)
        return
    with _then_in_force(bus, servers, wait=wait, timeout_s=timeout):
        _set(bus, bot, chosen, "revoked", now)
        for one in chosen:
            click.echo(f"revoked {one.text} of {bot}", err=True)
    if read_key_files(bus.path, frozenset([bot]), []).invitations.get(bot):
        note(f"{bot} has an invitation: `sealbus invites rm {bot}` withdraws it")


@click.command()
@click.argument("bot")
@click.argument("key", required=False)
@wait_options
@dir_option
def void(
    bot: str,
    key: str | None,
    servers: tuple[str, ...],
    wait: bool,
    timeout: float,
    folder: str | None,
) -> None:
    """Void the session keys of BOT that were made until now, by KEY or by all its keys.

    Nothing that a void session key seals is accepted any more, and all sessions end. The bot makes
    a new session key and comes back by itself. This helps only where the bot's enrolled key was not
    in reach: it is in the memory of each process whose credentials have it. Otherwise revoke the
    key. If the bot's clock may be ahead, say it again a minute later. KEY is a public key (U…), or
    its first eight characters or more. With sealbus as BOT, it voids the session keys of all bots
    that logged in with a token of an identity provider.
    """
    bus = BusFolder.find(folder)
    now = datetime.now(UTC)
    chosen = [one for one in _choose(_keys(bus, bot), bot, key) if one.times.opens(_ms(now))]
    for one in chosen:
        if one.times.sessions_from_ms > _ms(now):
            raise Unusable(
                f"no session key of {one.text} counts before {_text(one.times.sessions_from_ms)}",
                hint=f"correct sessions_from in keys/{bot}.yaml; until then {bot} cannot log in",
            )
    if not chosen:
        click.echo(f"nothing to do: {bot} has no valid key that could have certified any", err=True)
        return
    with _then_in_force(bus, servers, wait=wait, timeout_s=timeout):
        _set(bus, bot, chosen, "sessions_from", now)
        for one in chosen:
            click.echo(f"voided the session keys of {one.text} of {bot}", err=True)


@click.command()
@click.argument("bot")
@click.argument("key")
@click.option("--at", callback=_time, metavar="TIME", help="Time in UTC: 2026-11-24T08:00:00Z.")
@click.option(
    "--after",
    callback=read_duration,
    metavar="DURATION",
    help=f"From now: 90s, 12h, 7d; {LONGEST_DAYS}d at most.",
)
@wait_options
@dir_option
def expire(
    bot: str,
    key: str,
    at: datetime | None,
    after: int | None,
    servers: tuple[str, ...],
    wait: bool,
    timeout: float,
    folder: str | None,
) -> None:
    """Let KEY of BOT expire at a time, or after a while.

    It is valid until then. Messages that it sealed before stay accepted.
    """
    if (at is None) == (after is None):
        raise click.UsageError("say when: --at TIME, or --after DURATION")
    bus = BusFolder.find(folder)
    chosen = _choose(_keys(bus, bot), bot, key)
    end = at if at is not None else _utc(_ms(datetime.now(UTC)) + (after or 0))
    for one in chosen:
        if _ms(end) <= one.times.not_before_ms:
            raise Unusable(
                f"{one.text} is valid only from {_text(one.times.not_before_ms)}",
                hint="choose a later time, or revoke it",
            )
    with _then_in_force(bus, servers, wait=wait, timeout_s=timeout):
        _set(bus, bot, chosen, "not_after", end)
        for one in chosen:
            click.echo(f"{one.text} of {bot} expires at {_text(_ms(end))}", err=True)


@click.command()
@click.argument("bot")
@click.option(
    "--overlap",
    default=OVERLAP,
    show_default=True,
    callback=read_duration,
    metavar="DURATION",
    help=f"How long the old keys stay valid: {LONGEST_DAYS}d at most.",
)
@click.option(
    "--out",
    metavar="FILE",
    help="File for the new credentials. [default: DIR/credentials/BOT.toml; the old file there"
    " becomes BOT.toml.old]",
)
@click.option(
    "--old",
    metavar="FILE",
    help="Credentials with the old key, which signs the link to the new one."
    " [default: DIR/credentials/BOT.toml]",
)
@click.option(
    "--no-link", is_flag=True, help="Make no link: the old key is lost, or somebody has stolen it."
)
@_wait
@written_server_option
@dir_option
def rotate(
    bot: str,
    overlap: int,
    out: str | None,
    old: str | None,
    no_link: bool,
    servers: tuple[str, ...],
    wait: bool,
    timeout: float,
    folder: str | None,
) -> None:
    """Make a new key for BOT, and let its old ones expire.

    Start the bot again with its new credentials before the old keys expire (--overlap). Until then
    all of them work, so no message is lost. The old key signs a link to the new one, so that
    subscribers which pin the old key follow. Without the old key there is no link, and their pins
    have to be edited by hand. The pins of BOT itself are kept, and so are its certificates where
    the authority of the bus is not here. After a run that was killed, say it again.
    """
    if old is not None and no_link:
        raise click.UsageError("say --old FILE, or --no-link")
    bus = BusFolder.find(folder)
    known = _keys(bus, bot)
    facts = the_bus(bus, servers)
    own = {one.times.raw: one.times for one in known}
    path = Path(old) if old is not None else bus.credentials(bot)
    unfinished = _unfinished(path, bot, own, facts.name) if old is None else None
    # A run that was killed has moved them away. It has enrolled no new key, or written none.
    if unfinished is not None or (old is None and not path.exists() and _kept(path).exists()):
        path = _kept(path)
    kept = kept_credentials(path, bot, facts.name)
    # With --no-link nobody asks for a passphrase or for an agent.
    before, why = None, "--no-link says so"
    if not no_link:
        before, why = old_credentials(path, bot, own, facts.name)
    if before is None and old is not None:
        raise Unusable(
            f"the link cannot be signed: {why}",
            hint="name other credentials with --old, or say --no-link in place of --old",
        )
    key = SigningKey.generate(KeyKind.BOT)
    public = key.public if unfinished is None or out is not None else unfinished.key.public
    link = None if before is None else parse_link(before.sign_link(public.text))
    # Behind the signature, which may wait for a passphrase or a person. A link that is dated after
    # the end of its old key is not followed.
    now = datetime.now(UTC)
    end = _utc(_ms(now) + overlap)
    ended = set[bytes]()

    def enrol() -> None:
        ended.update(add_next_key(bus.path, bot, public, now, link, end=end))

    # Not by way of `servers`, which are those of the new credentials.
    with _then_in_force(bus, (), wait=wait, timeout_s=timeout):
        if public == key.public:
            with _moved_away(bus, bot, own, facts.name, out):
                made = Path(out) if out else None
                path = make_key(bus, bot, facts, now, made, key=key, before=kept, enrol=enrol)
        else:
            path = bus.credentials(bot)
            finish_key(bus, bot, facts, now, path, enrol)
        if link is None:
            not_linked(bot, why)
        if ended:
            until = _text(_ms(end))
            click.echo(f"the old key is valid until {until}: restart {bot} before that", err=True)
        note_certificates(bus, Credentials.load(path))
        # Behind all changes and notes, because it fails if nobody reads it.
        click.echo(path)


@contextlib.contextmanager
def _then_in_force(
    bus: BusFolder, servers: tuple[str, ...], *, wait: bool, timeout_s: float
) -> Iterator[None]:
    """Wait behind the body until its change is in force, if that is wanted.

    Whatever that needs is missed before the body changes anything.
    """
    waiting = ReloadWait.prepare(bus, servers, timeout_s) if wait else None
    yield
    if waiting is not None:
        waiting.run()


def _kept(path: Path) -> Path:
    """The place of the credentials of before."""
    return path.with_name(f"{path.name}.old")


def _unfinished(path: Path, bot: str, own: dict[bytes, BotKey], bus: str) -> Credentials | None:
    """The credentials in ``path``, if a run was killed before it enrolled their key."""
    new, old = (kept_credentials(one, bot, bus) for one in (path, _kept(path)))
    if new is None or new.tokens is not None or new.key.public.raw in own:
        return None
    return None if _valid_key(old, own) is None else new


def _valid_key(credentials: Credentials | None, own: dict[bytes, BotKey]) -> BotKey | None:
    """The key in ``credentials``, if the bot is admitted with it."""
    if credentials is None or credentials.tokens is not None:
        return None
    key = own.get(credentials.key.public.raw)
    return key if key is not None and key.opens(_ms(datetime.now(UTC))) else None


@contextlib.contextmanager
def _moved_away(
    bus: BusFolder, bot: str, own: dict[bytes, BotKey], name: str, out: str | None
) -> Iterator[None]:
    """Move the bot's present credentials away, and back if the body fails."""
    path = bus.credentials(bot)
    kept = _kept(path)
    if out is not None or not path.exists():
        yield
        return
    if kept.exists():
        new, last = (_valid_key(kept_credentials(one, bot, name), own) for one in (path, kept))
        if new is None and last is not None:
            raise Unusable(
                f"{kept} has the valid key of {bot}, and {path} has none",
                hint=f"move {path} away, and say it again",
            )
        what = f"{kept} is there already"
        if new is not None and last is not None and last.not_after_ms is not None:
            what += f", because the last rotation of {bot} is complete"
        raise Unusable(what, hint="delete it if its key is not used any more")
    with writing(kept):
        path.rename(kept)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            kept.rename(path)
        raise


def _keys(bus: BusFolder, bot: str) -> list[_Key]:
    """The keys of ``bot``, or of the bus's session issuer, in the order of its file."""
    policy = bus.policy()
    if bot != RELAY:
        check_bot(bot)
        if bot not in policy.bots:
            raise Unusable(f"policy.yaml declares no bot {bot}", hint=nearest(bot, policy.bots))
    return [_Key(PublicKey(raw, KeyKind.BOT).text, key) for raw, key in policy.own_keys(bot)]


def _choose(keys: Iterable[_Key], bot: str, wanted: str | None) -> list[_Key]:
    """The keys that somebody means by the whole key, by its beginning, or by nothing."""
    found = [one for one in keys if wanted is None or one.text.startswith(wanted)]
    if wanted is not None and len(wanted) < LEAST_CHARS:
        raise click.BadParameter(f"a key is named by {LEAST_CHARS} characters or more")
    if not found:
        what = f"{bot} has no key" + (f" {readable(wanted, 80)}" if wanted else "")
        raise Unusable(what, hint=f"`sealbus keys show {bot}` lists its keys")
    if wanted is not None and len(found) > 1:
        raise Unusable(f"{len(found)} keys of {bot} begin like that", hint="give more characters")
    return found


def _set(bus: BusFolder, bot: str, keys: Iterable[_Key], field: str, at: datetime) -> None:
    with writing(bus.path / FOLDER / f"{bot}.yaml"):
        set_time(bus.path, bot, [one.times.raw for one in keys], field, at)


def _linked(key: BotKey) -> str | None:
    """When the link to ``key`` was made, if it has one."""
    return None if key.link is None else time_text(SenderLink.decode(key.link).at_ms)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _utc(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _text(at_ms: int | None) -> str | None:
    return None if at_ms is None else time_text(at_ms)
