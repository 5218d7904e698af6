"""The public keys of bots: ``keys/<bot>.yaml``. Never a seed."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from sealbus.errors import InvalidInput
from sealbus.keys import KeyKind, PublicKey
from sealbus_broker.gate.policy import BotKey
from sealbus_broker.policy.document import Document, read_yaml
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.reader import Reader

FOLDER: Final = "keys"

MAX_KEYS: Final = 16
"""Keys of one bot: the one in use, the next one and those that were; more is a bot that should be several."""


def read_keys(document: Document, bot: str, problems: list[Problem]) -> dict[bytes, tuple[BotKey, int]]:
    """The keys in one file by raw public key, each with its place in the list."""
    reader = Reader(document, problems)
    fields = reader.mapping(document.value, (), ("bot", "keys"))
    if "bot" in fields and fields["bot"] != bot:
        reader.note(("bot",), "is not the bot that the file is named after", got=fields["bot"], expected=bot)
    elif "bot" not in fields:
        reader.note((), "does not say whose keys these are", hint=f"add `bot: {bot}`")
    entries = fields.get("keys")
    if not isinstance(entries, list) or not entries or len(entries) > MAX_KEYS:
        reader.note(("keys",), "keys is not a list of keys", expected=f"1 to {MAX_KEYS} entries with `key: U…`")
        return {}
    found: dict[bytes, tuple[BotKey, int]] = {}
    for at, entry in enumerate(entries):
        key = _read_key(reader, entry, at)
        if key is None:
            continue
        if key.raw in found:
            reader.note(("keys", at), "the key stands here twice")
        found[key.raw] = key, at
    return found


def _read_key(reader: Reader, entry: Any, at: int) -> BotKey | None:
    path = ("keys", at)
    fields = reader.mapping(entry, path, ("key", "not_before", "not_after", "revoked"))
    if "key" not in fields or "not_before" not in fields:
        reader.note(path, "needs key and not_before", hint="`sealbus keys new` writes both")
        return None
    text = fields["key"]
    try:
        public = PublicKey.parse(text if isinstance(text, str) else "", KeyKind.BOT)
    except InvalidInput as error:
        # The text is not shown: it may be a seed that somebody pasted here.
        reader.note((*path, "key"), error.what, expected="a public key that begins with U", hint=error.hint)
        return None
    times = {
        name: reader.time(fields[name], (*path, name), name)
        for name in ("not_before", "not_after", "revoked")
        if name in fields
    }
    not_before, not_after = times["not_before"], times.get("not_after")
    if not_before is None or None in times.values():
        return None
    if not_after is not None and not_after <= not_before:
        reader.note((*path, "not_after"), "not_after is not after not_before")
    return BotKey(public.raw, not_before, not_after, times.get("revoked"))


def add_key(folder: Path, bot: str, key: PublicKey, now: datetime) -> Path:
    """Write ``key`` into ``folder/keys/<bot>.yaml``, valid from ``now`` on; what the file says already, comments included, stays.

    Raises :class:`InvalidInput` if the file there is not a key file, and ``OSError`` if it cannot be written.
    """
    path = folder / FOLDER / f"{bot}.yaml"
    yaml = YAML(typ="rt", pure=True)
    yaml.indent(mapping=2, sequence=4, offset=2)
    entry = {"key": key.text, "not_before": now.astimezone(UTC).replace(microsecond=0, tzinfo=None)}
    if path.exists():
        document = read_yaml(folder, f"{FOLDER}/{bot}.yaml")
        problems: list[Problem] = [document] if isinstance(document, Problem) else []
        if isinstance(document, Document):
            read_keys(document, bot, problems)
        if problems or isinstance(document, Problem):
            raise InvalidInput(str(problems[0]), hint="mend the file first; `sealbus check` shows everything")
        content = yaml.load(path.read_text())
        content["keys"].append(entry)
    else:
        content = {"bot": bot, "keys": [entry]}
    out = StringIO()
    if not path.exists():
        out.write(f"# Public keys of the bot {bot}. The private half is in its credentials file, never here.\n")
    yaml.dump(content, out)
    path.parent.mkdir(exist_ok=True)
    _replace(path, out.getvalue().replace(entry["not_before"].isoformat(" "), f"{entry['not_before'].isoformat()}Z"))
    return path


def _replace(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader never sees half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(name, 0o644)
    os.replace(name, path)
