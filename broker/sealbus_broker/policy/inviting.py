"""Edits of invitations in ``keys/<bot>.yaml``: add one, withdraw one, accept the key that came.

:func:`accept` is the clerk of the bus: the one place where a key that came by itself gets into the
folder. It believes nobody. It verifies that the token's key has signed the key that came, and
changes the file in one step. So it may be called again after any failure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sealbus.protocol.joining import JoinRecord
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus_broker.policy.errors import InTheWay
from sealbus_broker.policy.invitations import INVITATIONS, MAX_INVITATIONS
from sealbus_broker.policy.keys import (
    KeyFile,
    KeyFiles,
    edit,
    read_key_files,
    whole_second,
    write_new,
)
from sealbus_broker.policy.replace import alone


class NoInvitation(InTheWay):
    """No bot has the invitation of a join record, or not any more."""


class NeedsApproval(InTheWay):
    """An operator has to accept the key of a join record, and nobody has."""


def add_invitation(
    folder: Path, bot: str, key: PublicKey, *, now: datetime, life: timedelta, approve: bool
) -> datetime:
    """Write an invitation by ``key``, open from ``now`` (aware) for ``life``; return its end, in
    UTC and whole seconds.

    The existing content stays, with its comments. Raises :class:`InvalidInput` if the existing file
    has a problem, or has too many invitations, and ``OSError`` if it cannot be written.
    """
    begins = whole_second(now)
    ends = begins + life
    entry = (
        f"{INVITATIONS}:\n"
        f"  - key: {key.text}\n"
        f"    not_before: {begins.isoformat()}Z\n"
        f"    not_after: {ends.isoformat()}Z\n" + ("    approve: true\n" if approve else "")
    )

    def add(file: KeyFile) -> None:
        if len(file.invitations) >= MAX_INVITATIONS:
            raise InTheWay(
                f"{file.name} has {MAX_INVITATIONS} invitations, which is the most",
                hint=f"`sealbus invites rm {bot}` withdraws them",
            )
        fields = {"key": key.text, "not_before": begins.replace(), "not_after": ends.replace()}
        file.content.setdefault(INVITATIONS, []).append(
            fields | ({"approve": True} if approve else {})
        )

    with alone(folder):
        if write_new(folder, bot, entry) is None:
            edit(folder, bot, add, (begins, ends))
    return ends


def withdraw(folder: Path, bot: str, keys: Collection[bytes]) -> frozenset[bytes]:
    """Take the invitations with the raw public ``keys`` out of the file of ``bot``.

    Return those that were there. The others were accepted or withdrawn meanwhile. A file without
    any key then goes. Raises :class:`InvalidInput` and ``OSError`` as :func:`add_invitation`.
    """
    there = set[bytes]()

    def take_out(file: KeyFile) -> None:
        there.update(file.invitations.keys() & keys)
        _take_out(file, keys)

    with alone(folder):
        edit(folder, bot, take_out, ())
    return frozenset(there)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A key that was enrolled by an invitation."""

    bot: str
    key: PublicKey


def accept(
    folder: Path,
    record: JoinRecord,
    *,
    bus: str,
    bots: frozenset[str],
    bus_keys: frozenset[bytes],
    now: datetime,
    approved: bool,
) -> Accepted:
    """Enrol the key of a join record, from ``now`` (aware) on, and take its invitation out.

    Args:
        folder: The bus's folder.
        record: The record, unverified.
        bus: The name of the bus.
        bots: The bots of its policy.
        bus_keys: The bus's own raw public keys. No bot may have one.
        now: The time.
        approved: Whether an operator accepts the key.

    Raises:
        NoInvitation: No bot has the invitation.
        NeedsApproval: An operator has to accept the key. The file counts, because the policy in
            force may be older.
        InvalidInput: Its key has not signed the key of the record, the
            record is from after the end, or the key is somebody's. Nothing was changed.
        OSError: The file cannot be written.
    """
    with alone(folder):
        # Problems in other files do not matter here: `sealbus check` names them.
        files = read_key_files(folder, bots, [])
        token_key = record.proof.token_key
        bot = next((bot for bot, open_ in files.invitations.items() if token_key in open_), None)
        if bot is None:
            raise NoInvitation(
                "the invitation is not in keys/ any more: it was accepted or withdrawn"
            )
        if files.invitations[bot][token_key].approve and not approved:
            raise NeedsApproval(
                f"the invitation of {bot} asks for an operator",
                hint=f"`sealbus invites accept {bot}` enrols the key that came",
            )
        key = check(record, bot, files, bus=bus, bus_keys=bus_keys)
        since = whole_second(now)

        def enrol(file: KeyFile) -> None:
            file.add_key(key, since)
            _take_out(file, [token_key])

        edit(folder, bot, enrol, (since,))
    return Accepted(bot, key)


def check(
    record: JoinRecord, bot: str, files: KeyFiles, *, bus: str, bus_keys: frozenset[bytes]
) -> PublicKey:
    """Return the key of a record that may be enrolled for ``bot``. Raises :class:`InTheWay`.

    ``files`` have the invitation.
    """
    invitation = files.invitations[bot][record.proof.token_key]
    if not record.proof.holds(bus=bus, bot=bot, key=record.key):
        raise InTheWay(
            f"the token of {bot} has not signed the key that came",
            hint="somebody wrote to the bus's streams: withdraw the invitation, and look who could",
        )
    if record.at_ms >= invitation.not_after_ms:
        raise InTheWay(f"the key for {bot} came after the end of the invitation")
    return check_free(record.key, files, bus_keys)


def check_free(raw: bytes, files: KeyFiles, bus_keys: frozenset[bytes]) -> PublicKey:
    """Return the key with 32 ``raw`` bytes that nobody on the bus has. Raises :class:`InTheWay`.

    Relays would refuse the whole folder with a key of two.
    """
    key = PublicKey.parse(PublicKey(raw, KeyKind.BOT).text, KeyKind.BOT)
    owner = next((bot for bot, keys in files.by_bot.items() if raw in keys), None)
    if owner is None and any(raw in open_ for open_ in files.invitations.values()):
        owner = "an invitation"
    if owner is None and raw in bus_keys:
        owner = "the bus itself"
    if owner is not None:
        raise InTheWay(
            f"{key.text} is a key of {owner}: a key belongs to one bot",
            hint="withdraw the invitation with `sealbus invites rm`, and make another",
        )
    return key


def _take_out(file: KeyFile, keys: Iterable[bytes]) -> None:
    places = {file.invitations[raw] for raw in keys if raw in file.invitations}
    entries = file.content.get(INVITATIONS, [])
    for place in sorted(places, reverse=True):
        del entries[place]
    if not entries and INVITATIONS in file.content:
        del file.content[INVITATIONS]
