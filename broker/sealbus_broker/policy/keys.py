"""The public keys of bots: ``keys/<bot>.yaml``. Never a seed.

A file has the bot's keys, its invitations (:mod:`sealbus_broker.policy.invitations`), or both. Each
edit replaces the file as a whole. Edits by several commands and relays of one machine come one
after the other, because an edit that does not see the one before it would take a revocation back.

``keys/sealbus.yaml`` has the bus's session-issuer keys, in the same form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.sender_links import link_text, parse_link
from sealbus.protocol.subjects import RELAY, check_name, is_name
from sealbus_broker.escape import readable
from sealbus_broker.gate.policy import BotKey, Invitation
from sealbus_broker.policy.document import Document, KnownFiles, file_names, parse_yaml, read_yaml
from sealbus_broker.policy.errors import InTheWay
from sealbus_broker.policy.invitations import INVITATIONS, read_invitations
from sealbus_broker.policy.problems import Problem, similar
from sealbus_broker.policy.reader import Reader
from sealbus_broker.policy.replace import alone, replace_file
from sealbus_broker.policy.sender_links import FIELD as LINK

FOLDER: Final = "keys"

POLICY: Final = "policy.yaml"

MAX_KEYS: Final = 16
"""Most keys of one bot: the one in use, the next one and old ones.

A bot with more should be several bots.
"""


_TIMES: Final = ("not_after", "revoked", "sessions_from")
"""The times that a key may have, beside its ``not_before``."""

MAX_KEY_FILE_BYTES: Final = 64 * 1024
"""Largest key file. Sixteen keys with their times have 2 KiB, and the rest is for comments."""


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The content of the folder ``keys/``."""

    by_bot: dict[str, dict[bytes, BotKey]]
    """By bot and raw public key. A bot without a file is not in it."""
    invitations: dict[str, dict[bytes, Invitation]]
    """The same for invitations."""
    documents: list[Document]
    """The files that were read."""


def read_key_files(
    root: Path, bots: frozenset[str], problems: list[Problem], known: KnownFiles | None = None
) -> KeyFiles:
    """Read every key file of the folder, and add their problems to ``problems``. A missing folder
    has no keys.

    A file with a wrong name is a problem too. Somebody who writes a revocation into
    ``keys/order.yml`` believes that it holds.
    """
    found = KeyFiles({}, {}, [])
    owners: dict[bytes, str] = {}
    try:
        names = file_names(root, FOLDER)
    except FileNotFoundError:
        return found
    except OSError as error:
        problems.append(Problem(FOLDER, 0, 0, f"cannot be read: {error.strerror}"))
        return found
    for name in names:
        file = f"{FOLDER}/{name}"
        bot = name.removesuffix(".yaml")
        if bot == name or not is_name(bot):
            what = "the file's name is not a key file's name"
            problems.append(
                Problem(
                    readable(file, 200),
                    0,
                    0,
                    what,
                    expected="the bot's name and .yaml, like order.yaml",
                )
            )
            continue
        document = read_yaml(root, file, MAX_KEY_FILE_BYTES, known)
        if isinstance(document, Problem):
            problems.append(document)
            continue
        found.documents.append(document)
        # Under the bus's own name are its session-issuer keys.
        if bot not in bots and bot != RELAY:
            near = similar(bot, bots, problems)
            hint = near or "declare it under bots in policy.yaml, or delete the file"
            problems.append(document.problem((), f"the policy declares no bot {bot}", hint=hint))
        found.by_bot[bot] = {}
        for raw, (key, at) in read_keys(document, bot, problems).items():
            if owners.setdefault(raw, bot) != bot:
                what = f"this key is also {owners[raw]}'s: a key belongs to one bot"
                problems.append(
                    document.problem(("keys", at), what, hint="make a key for each bot")
                )
            found.by_bot[bot][raw] = key
        found.invitations[bot] = {}
        for raw, (invitation, at) in read_invitations(document, problems).items():
            # Also against a later file: a key is never both.
            if owners.setdefault(raw, f"{bot}'s invitation") != f"{bot}'s invitation":
                what = (
                    f"this key is also {owners[raw]}'s, and the key of an invitation is nobody"
                    " else's"
                )
                hint = f"delete this invitation, and make another: `sealbus invite {bot}`"
                problems.append(document.problem((INVITATIONS, at), what, hint=hint))
            found.invitations[bot][raw] = invitation
    return found


def keys_of_the_bus(files: KeyFiles, own: frozenset[bytes]) -> Iterator[Problem]:
    """Find keys of bots that are the bus's own key, written as a bot's.

    Their holder could stamp anything.
    """
    for bot, keys in files.by_bot.items():
        if not own.isdisjoint({*keys, *files.invitations[bot]}):
            what = f"a key of {bot} is the bus's own, written as a bot's"
            hint = f"delete it from the file, and make another: `sealbus keys new {bot}`"
            yield Problem(f"{FOLDER}/{bot}.yaml", 0, 0, what, hint=hint)


def read_keys(
    document: Document, bot: str, problems: list[Problem]
) -> dict[bytes, tuple[BotKey, int]]:
    """The keys in one file by raw public key, each with its place in the list."""
    reader = Reader(document, problems)
    fields = reader.mapping(document.value, (), ("bot", "keys", INVITATIONS))
    if "bot" in fields and fields["bot"] != bot:
        reader.problem(
            ("bot",), "is not the bot that the file is named after", got=fields["bot"], expected=bot
        )
    elif "bot" not in fields:
        reader.problem((), "does not say whose keys these are", hint=f"add `bot: {bot}`")
    if "keys" not in fields and fields.get(INVITATIONS):
        return {}
    entries = fields.get("keys")
    if not isinstance(entries, list) or not entries or len(entries) > MAX_KEYS:
        reader.problem(
            ("keys",),
            "keys is not a list of keys",
            expected=f"1 to {MAX_KEYS} entries with `key: U…`",
        )
        return {}
    found: dict[bytes, tuple[BotKey, int]] = {}
    for at, entry in enumerate(entries):
        key = _read_key(reader, entry, at)
        if key is None:
            continue
        if key.raw in found:
            reader.problem(("keys", at), "the key occurs here twice")
        found[key.raw] = key, at
    return found


def _read_key(reader: Reader, entry: Any, at: int) -> BotKey | None:
    path = ("keys", at)
    fields = reader.mapping(entry, path, ("key", "not_before", *_TIMES, LINK))
    if "key" not in fields or "not_before" not in fields:
        reader.problem(path, "needs key and not_before", hint="`sealbus keys new` writes both")
        return None
    text = fields["key"]
    try:
        public = PublicKey.parse(text if isinstance(text, str) else "", KeyKind.BOT)
    except InvalidInput as error:
        # The text is not shown: it may be a seed that somebody pasted here.
        reader.problem(
            (*path, "key"), error.what, expected="a public key that begins with U", hint=error.hint
        )
        return None
    times = {
        name: reader.time(fields[name], (*path, name), name)
        for name in ("not_before", *_TIMES)
        if name in fields
    }
    not_before = times["not_before"]
    not_after = times.get("not_after")
    if not_before is None or None in times.values():
        return None
    if not_after is not None and not_after <= not_before:
        reader.problem((*path, "not_after"), "not_after is not after not_before")
    link = None
    if LINK in fields:
        try:
            link = parse_link(fields[LINK])
        except InvalidInput as error:
            reader.problem((*path, LINK), error.what, hint=error.hint)
            return None
    return BotKey(
        public.raw,
        not_before,
        not_after,
        times.get("revoked"),
        times.get("sessions_from") or 0,
        link,
    )


def add_key(
    folder: Path, bot: str, key: PublicKey, now: datetime, link: bytes | None = None
) -> Path:
    """Write ``key`` into ``folder/keys/<bot>.yaml``, valid from ``now`` (aware) on, with the sender
    ``link`` to it if there is one.

    The existing content stays, with its comments. The file is replaced as a whole: a reader sees
    the old or the new one. Raises :class:`InvalidInput` if the existing file has a problem or has
    the key already, and ``OSError`` if it cannot be written.
    """
    return _enrol(folder, bot, key, now, lambda file, since: file.add_key(key, since, link), ())


def add_next_key(
    folder: Path,
    bot: str,
    key: PublicKey,
    now: datetime,
    link: bytes | None = None,
    *,
    end: datetime,
) -> frozenset[bytes]:
    """Write ``key`` as :func:`add_key` does, and have the keys that are valid ``now`` end at
    ``end`` (aware) at the latest.

    Both are one step. So a command that is killed leaves both undone or both done. Return the raw
    keys that got this end. The others end before it. Raises as :func:`add_key`.
    """
    until = whole_second(end)
    now_ms, end_ms = (int(at.timestamp() * 1000) for at in (now, end))
    ended = set[bytes]()

    def change(file: KeyFile, since: datetime) -> None:
        ended.update(
            raw for raw, one in file.times.items() if one.opens(now_ms) and one.ends_ms > end_ms
        )
        file.set_time(ended, "not_after", until)
        file.add_key(key, since, link)

    _enrol(folder, bot, key, now, change, (until,))
    return frozenset(ended)


def _enrol(
    folder: Path,
    bot: str,
    key: PublicKey,
    now: datetime,
    change: Callable[[KeyFile, datetime], None],
    times: Collection[datetime],
) -> Path:
    """Make a key file with ``key``, or ``change`` the file of the bot, which gets the beginning of
    the key. ``times``: the other times that it writes."""
    since = whole_second(now)
    entry = f"keys:\n  - key: {key.text}\n    not_before: {since.isoformat()}Z\n"
    with alone(folder):
        if (made := write_new(folder, bot, entry)) is not None:
            return made
        return edit(folder, bot, lambda file: change(file, since), (since, *times))


def set_time(folder: Path, bot: str, keys: Collection[bytes], field: str, at: datetime) -> Path:
    """Set a time of some keys of a bot to ``at`` (aware), in whole seconds. ``field`` is
    ``not_after``, ``revoked`` or ``sessions_from``.

    The rest of the file stays, with its comments. Raises :class:`InvalidInput` if the file has a
    problem or lacks one of the raw ``keys``, and ``OSError`` if it cannot be written.
    """
    when = whole_second(at)
    with alone(folder):
        return edit(folder, bot, lambda file: file.set_time(keys, field, when), (when,))


def set_link(folder: Path, bot: str, new: bytes, link: bytes) -> Path:
    """Write a sender link to the raw key ``new`` of a bot, in place of one that is there.

    The caller has verified it. The rest of the file stays, with its comments. Raises
    :class:`InvalidInput` if the file has a problem or lacks the key, and ``OSError`` if it cannot
    be written.
    """

    def change(file: KeyFile) -> None:
        file.content["keys"][file.place(new)][LINK] = link_text(link)

    with alone(folder):
        return edit(folder, bot, change, ())


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file that is being edited."""

    name: str
    """Its path in the folder."""
    content: Any
    """All of it, as ruamel.yaml keeps it, with its comments."""
    keys: Mapping[bytes, int]
    """The place of each raw key in the list."""
    times: Mapping[bytes, BotKey]
    """Each raw key with its times, before the edit."""
    invitations: Mapping[bytes, int]
    """The same for invitations."""

    def place(self, raw: bytes) -> int:
        """The place of a raw key in the list. Raises :class:`InTheWay` if it lacks the key."""
        if raw not in self.keys:
            text = PublicKey(raw, KeyKind.BOT).text
            raise InTheWay(f"{self.name} does not have the key {text}")
        return self.keys[raw]

    def set_time(self, keys: Collection[bytes], field: str, when: datetime) -> None:
        """Set a time of some raw keys. Raises :class:`InTheWay` if it lacks one of them.

        An earlier revocation stays, and so does a later ``sessions_from``. Another command may have
        written it since the caller looked, and it must not be taken back.
        """
        at_ms = int(when.replace(tzinfo=UTC).timestamp() * 1000)
        for raw in keys:
            place, now = self.place(raw), self.times[raw]
            if field == "revoked" and now.revoked_ms is not None and now.revoked_ms <= at_ms:
                continue
            if field == "sessions_from" and now.sessions_from_ms >= at_ms:
                continue
            # A time of its own: ruamel.yaml writes one that occurs twice as an anchor.
            self.content["keys"][place][field] = when.replace()

    def add_key(self, key: PublicKey, since: datetime, link: bytes | None = None) -> None:
        """Add ``key``, valid from ``since`` on, with its ``link``. Raises :class:`InTheWay`."""
        if key.raw in self.keys:
            raise InTheWay(f"{self.name} has this key already")
        if len(self.keys) == MAX_KEYS:
            raise InTheWay(
                f"{self.name} has {MAX_KEYS} keys, which is the most",
                hint="remove one that has expired",
            )
        if "keys" not in self.content:
            # Before the invitations, as in all other files.
            self.content.insert(list(self.content).index(INVITATIONS), "keys", [])
        entry: dict[str, Any] = {"key": key.text, "not_before": since.replace()}
        self.content["keys"].append(entry if link is None else entry | {LINK: link_text(link)})


def write_new(folder: Path, bot: str, entries: str) -> Path | None:
    """Write a key file with ``entries``, or return ``None`` if the bot has a file.

    The caller holds :func:`alone`. Raises :class:`InTheWay` if the policy does not declare the bot.
    """
    path = folder / key_file(bot)
    if path.exists() or path.is_symlink():
        return None
    # `sealbus bot rm` may have removed it since the caller looked. Relays refuse a folder with a
    # key file of a bot that does not exist. What a policy with a problem declares is not known.
    policy = read_yaml(folder, POLICY)
    fields = None if isinstance(policy, Problem) else policy.value
    bots = fields.get("bots") or {} if isinstance(fields, dict) else None
    if bot != RELAY and isinstance(bots, dict) and bot not in bots:
        raise InTheWay(
            f"{POLICY} declares no bot {bot}", hint=f"`sealbus bot add {bot}` declares it"
        )
    head = f"of the bot {bot}. The private half is in its credentials file, never here."
    if bot == RELAY:
        head = "of the bus's session issuer. The private half is in .sealbus/relay.toml."
    text = f"# Public keys {head}\nbot: {bot}\n{entries}"
    path.parent.mkdir(exist_ok=True)
    replace_file(path, text)
    return path


def key_file(bot: str) -> str:
    """The path of the bot's file in the folder."""
    # Checked here too: a name with a slash would lead elsewhere.
    return f"{FOLDER}/{check_name(bot)}.yaml"


def whole_second(at: datetime) -> datetime:
    """``at`` in UTC, as ruamel.yaml writes a time: without its zone."""
    return at.astimezone(UTC).replace(microsecond=0, tzinfo=None)


def edit(
    folder: Path, bot: str, change: Callable[[KeyFile], None], times: Collection[datetime]
) -> Path:
    """Change the content of a key file, and keep everything else of it.

    ``times``: the times that ``change`` writes. The caller holds :func:`alone`.
    """
    name = key_file(bot)
    document = read_yaml(folder, name, MAX_KEY_FILE_BYTES)
    problems = [document] if isinstance(document, Problem) else []
    if isinstance(document, Problem):
        keys, invitations = {}, {}
    else:
        keys = read_keys(document, bot, problems)
        invitations = read_invitations(document, problems)
    if problems or isinstance(document, Problem):
        raise InTheWay(
            str(problems[0]), hint="repair the file first; `sealbus check` lists everything"
        )
    # This reader keeps comments and quotes. It is too lax for the judgement above.
    yaml = YAML(typ="rt", pure=True)
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    before = document.content.decode()
    content = yaml.load(before)
    change(
        KeyFile(
            name,
            content,
            {raw: place for raw, (_, place) in keys.items()},
            {raw: key for raw, (key, _) in keys.items()},
            {raw: place for raw, (_, place) in invitations.items()},
        )
    )
    if not {"keys", INVITATIONS} & set(content):
        # A bot without both has no file. Relays refuse one that says nothing.
        (folder / name).unlink()
        return folder / name
    out = StringIO()
    yaml.dump(content, out)
    text = out.getvalue()
    # ruamel.yaml writes a time with a blank and without a zone, which the reader refuses.
    for at in times:
        text = text.replace(at.isoformat(" "), f"{at.isoformat()}Z")
    text = _with_remarks(before, text)
    # No edit may leave a file that relays refuse.
    edited = parse_yaml(name, text.encode())
    if isinstance(edited, Document):
        read_keys(edited, bot, problems)
        read_invitations(edited, problems)
    else:
        problems.append(edited)
    if problems:
        raise InTheWay(
            f"{name} cannot be edited: {problems[0]}", hint="edit it by hand, with `sealbus check`"
        )
    replace_file(folder / name, text)
    return folder / name


def _with_remarks(before: str, after: str) -> str:
    """``after``, with the comment lines of ``before`` that it lacks at its end.

    ruamel.yaml keeps a comment with the entry above it, and drops both together.
    """
    lost = Counter(_remarks(before)) - Counter(_remarks(after))
    return after + "".join(f"{line}\n" for line in lost.elements())


def _remarks(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.lstrip().startswith("#")]
