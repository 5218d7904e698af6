"""A bus's folder becomes one :class:`Policy`, or a list of everything that is wrong with it. A bad folder is refused whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sealbus.keys import PublicKey
from sealbus.reason import Reason
from sealbus.subjects import RELAY, RESERVED, check_name, check_pattern, is_name, overlap
from sealbus_broker.gate.policy import BotKey, BotRule, CauseRule, Delivery, Disposition, Limits, Policy, SubjectRule
from sealbus_broker.gate.schemas import Schema
from sealbus_broker.policy import keys as key_files
from sealbus_broker.policy.builtin import EVERYONE, builtin_subjects
from sealbus_broker.policy.document import Document, Path_, read_yaml
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.reader import Reader
from sealbus_broker.policy.schema_files import read_schemas

FILE: Final = "policy.yaml"

MAX_CAUSE_MS: Final = 24 * 3_600_000
"""Longest ``within`` of a cause with ``once``: the ledger keeps every id in memory for so long, about 150 bytes each."""

_SIZES: Final = frozenset({"accepted_bytes", "ingress_bytes", "quarantine_bytes", "live_bytes"})
_LIMITS: Final = tuple(field.name.removesuffix("_ms") for field in fields(Limits))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a folder gave: a policy, or problems. Notes are worth a look, and stop nothing."""

    policy: Policy | None
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


def load(folder: Path, bus_keys: frozenset[PublicKey] = frozenset()) -> Loaded:
    """Read ``folder``. ``bus_keys``: whose stamps count as proof in a parent. Raises nothing."""
    problems: list[Problem] = []
    notes: list[Problem] = []
    schemas, documents = read_schemas(folder, problems)
    document = read_yaml(folder, FILE)
    if isinstance(document, Problem):
        return Loaded(None, (*problems, document), ())
    loading = _Loading(Reader(document, problems), schemas, notes)
    loading.read()
    keys = loading.read_keys(folder, documents)
    if problems:
        return Loaded(
            None, tuple(sorted(set(problems), key=lambda one: (one.file, one.line, one.column, one.what))), tuple(notes)
        )
    return Loaded(loading.policy(keys, bus_keys, _digest([document, *documents])), (), tuple(notes))


def _digest(documents: list[Document]) -> bytes:
    """SHA-256 over the names and contents of all files, whatever order they were read in."""
    whole = hashlib.sha256()
    for document in sorted(documents, key=lambda one: one.file):
        whole.update(hashlib.sha256(document.file.encode()).digest() + hashlib.sha256(document.content).digest())
    return whole.digest()


@dataclass(slots=True)
class _Grants:
    publish: list[str]
    subscribe: list[str]
    roles: tuple[str, ...] = ()


class _Loading:
    """One ``policy.yaml`` under reading."""

    def __init__(self, reader: Reader, schemas: dict[str, Schema], notes: list[Problem]) -> None:
        self.reader = reader
        self.schemas = schemas
        self.notes = notes
        self.bus = ""
        self.limits = Limits()
        self.on_violation: dict[Reason, Disposition] = {}
        self.default = Disposition.QUARANTINE
        self.subjects: list[SubjectRule] = []
        self.bots: dict[str, _Grants] = {}

    def read(self) -> None:
        known = ("version", "bus", "limits", "on_violation", "roles", "bots", "subjects")
        top = self.reader.mapping(self.reader.document.value, (), known)
        if top.get("version") != 1 or isinstance(top.get("version"), bool):
            self.reader.note(
                ("version",), "the version of this file is not known", got=top.get("version"), expected="version: 1"
            )
        bus = self.reader.checked(top.get("bus"), ("bus",), "bus", lambda text: check_name(text, "bus"))
        self.bus = bus or ""
        self.read_limits(top.get("limits"))
        violation = self.reader.mapping(
            top.get("on_violation"), ("on_violation",), ("default", *(reason.value for reason in Reason))
        )
        if "default" in violation:
            self.default = self.disposition(violation.pop("default"), ("on_violation", "default")) or self.default
        self.on_violation = self.dispositions(violation, ("on_violation",))
        subjects = self.reader.mapping(top.get("subjects"), ("subjects",))
        if not subjects:
            self.reader.note(("subjects",), "declares no subject", hint="a bus without subjects carries nothing")
        for name, value in subjects.items():
            self.read_subject(name, value)
        self.check_subjects()
        self.read_bots(top)

    def read_limits(self, value: Any) -> None:
        given = self.reader.mapping(value, ("limits",), _LIMITS)
        numbers: dict[str, int] = {}
        for name, text in given.items():
            path: Path_ = ("limits", name)
            if name in _SIZES:
                number = self.reader.size(text, path, name, 1024**2)
            else:
                number = self.reader.duration(text, path, name, 0 if name == "clock_skew" else 100, 366 * 86_400_000)
            if number is not None:
                numbers[name if name in _SIZES else f"{name}_ms"] = number
        self.limits = Limits(**numbers)
        if self.limits.session_ms < 10_000:
            self.reader.note(
                ("limits", "session"), "session is too short", expected="at least 10s: renewing takes a second or two"
            )

    def disposition(self, value: Any, path: Path_) -> Disposition | None:
        text = self.reader.choice(value, path, "what to do", [one.value for one in Disposition])
        return Disposition(text) if text else None

    def dispositions(self, given: dict[str, Any], path: Path_) -> dict[Reason, Disposition]:
        read = {Reason(name): self.disposition(value, (*path, name)) for name, value in given.items()}
        return {reason: one for reason, one in read.items() if one is not None}

    def read_subject(self, name: str, value: Any) -> None:
        path: Path_ = ("subjects", name)
        known = ("delivery", "schema", "rate", "reply", "cause", "on_violation")
        given = self.reader.mapping(value, path, known)
        if self.reader.checked(name, path, "subject", check_pattern) is None:
            return
        if name.split(".", maxsplit=1)[0] in RESERVED:
            self.reader.note(
                path, f"{name.split('.', maxsplit=1)[0]}.… belongs to the bus itself", hint="choose another first token"
            )
            return
        delivery = Delivery.STREAM
        if "delivery" in given:
            chosen = self.reader.choice(
                given["delivery"], (*path, "delivery"), "delivery", [one.value for one in Delivery]
            )
            delivery = Delivery(chosen) if chosen else delivery
        schemas = [
            self.schema(text, place)
            for place, text in self.reader.texts(given.get("schema"), (*path, "schema"), "schema")
        ]
        if "schema" not in given or given["schema"] == []:
            hint = "name one, like orders.placed.v1; a schema `true` accepts everything"
            self.reader.note(path, f"subject {name} has no schema", hint=hint)
        reply = None
        if "reply" in given:
            text = self.reader.text(given["reply"], (*path, "reply"), "reply")
            reply = self.schema(text, (*path, "reply")) if text else None
            if delivery is not Delivery.LIVE:
                self.reader.note((*path, "reply"), "only a live subject takes replies", hint="add `delivery: live`")
        self.subjects.append(
            SubjectRule(
                pattern=name,
                delivery=delivery,
                schemas=MappingProxyType({schema.name: schema for schema in schemas if schema}),
                rate=self.reader.rate(given["rate"], (*path, "rate")) if "rate" in given else None,
                reply=reply,
                cause=self.read_cause(given["cause"], (*path, "cause")) if "cause" in given else None,
                on_violation=MappingProxyType(
                    self.subject_dispositions(given.get("on_violation"), (*path, "on_violation"))
                ),
            )
        )

    def subject_dispositions(self, value: Any, path: Path_) -> dict[Reason, Disposition]:
        return self.dispositions(self.reader.mapping(value, path, [reason.value for reason in Reason]), path)

    def schema(self, name: str, path: Path_) -> Schema | None:
        found = self.schemas.get(name)
        if found is None:
            self.reader.note(
                path, "there is no such schema", got=name, expected=f"a file schemas/{name}.json that is a schema"[:120]
            )
        return found

    def read_cause(self, value: Any, path: Path_) -> CauseRule | None:
        given = self.reader.mapping(value, path, ("subject", "within", "match", "once"))
        subject = self.reader.checked(given.get("subject"), (*path, "subject"), "subject", check_pattern)
        within = self.reader.duration(given.get("within"), (*path, "within"), "within", 1000, MAX_CAUSE_MS)
        once = self.reader.flag(given["once"], (*path, "once"), "once") if "once" in given else False
        pointers = self.reader.texts(given.get("match"), (*path, "match"), "match")
        for place, pointer in pointers:
            if not pointer.startswith("/"):
                self.reader.note(place, "is not a JSON pointer", got=pointer, expected="a pointer like /order_id")
        if subject is None or within is None:
            return None
        return CauseRule(subject, within, tuple(pointer for _, pointer in pointers), once)

    def check_subjects(self) -> None:
        # Literal subjects cannot overlap each other, and mappings have no doubles: only patterns need comparing.
        patterns = [rule.pattern for rule in self.subjects if "*" in rule.pattern or rule.pattern.endswith(">")]
        for pattern in patterns:
            for rule in self.subjects:
                if rule.pattern != pattern and overlap(pattern, rule.pattern):
                    what = f"{pattern} and {rule.pattern} overlap, so it is not clear which rule holds"
                    self.reader.note(("subjects", pattern), what, hint="make one of them narrower")
        for rule in self.subjects:
            if rule.cause is not None and not any(
                overlap(rule.cause.subject, other.pattern) for other in self.subjects
            ):
                path: Path_ = ("subjects", rule.pattern, "cause", "subject")
                self.reader.note(path, "no declared subject can be this cause", got=rule.cause.subject)

    def read_bots(self, top: dict[str, Any]) -> None:
        roles = {
            name: self.read_grants(value, ("roles", name), ("publish", "subscribe"))
            for name, value in self.reader.mapping(top.get("roles"), ("roles",)).items()
        }
        for name, value in self.reader.mapping(top.get("bots"), ("bots",)).items():
            path: Path_ = ("bots", name)
            self.reader.checked(name, path, "bot", check_name)
            if name == RELAY:
                self.reader.note(path, f"{RELAY} is the relay's own name", hint="choose another")
            own = self.read_grants(value, path, ("roles", "publish", "subscribe"))
            given = value if isinstance(value, dict) else {}
            names = self.reader.texts(given.get("roles"), (*path, "roles"), "roles")
            for place, role in names:
                if role not in roles:
                    self.reader.note(
                        place, "there is no such role", got=role, expected=" or ".join(roles) or "a role under roles:"
                    )
            sources = [own, *(roles[role] for _, role in names if role in roles)]
            self.bots[name] = _Grants(
                [grant for one in sources for grant in one.publish],
                [grant for one in sources for grant in one.subscribe],
                tuple(role for _, role in names),
            )

    def read_grants(self, value: Any, path: Path_, known: tuple[str, ...]) -> _Grants:
        given = self.reader.mapping(value, path, known)
        return _Grants(*(self.read_patterns(given.get(name), (*path, name)) for name in ("publish", "subscribe")))

    def read_patterns(self, value: Any, path: Path_) -> list[str]:
        found = []
        declared = [rule.pattern for rule in (*self.subjects, *builtin_subjects())]
        for place, text in self.reader.texts(value, path, path[-1] if isinstance(path[-1], str) else "grants"):
            if self.reader.checked(text, place, "pattern", check_pattern) is None:
                continue
            if not any(overlap(text, pattern) for pattern in declared):
                hint = "declare the subject under subjects:, or take the grant away"
                self.reader.note(place, "the grant covers no declared subject", got=text, hint=hint)
            found.append(text)
        return found

    def read_keys(self, folder: Path, documents: list[Document]) -> dict[str, dict[bytes, BotKey]]:
        """The keys of all bots; every file that is read is added to ``documents``."""
        found: dict[str, dict[bytes, BotKey]] = {}
        owners: dict[bytes, str] = {}
        problems = self.reader.problems
        for path in sorted((folder / key_files.FOLDER).glob("*.yaml")):
            bot, file = path.stem, f"{key_files.FOLDER}/{path.name}"
            document = read_yaml(folder, file)
            if isinstance(document, Problem):
                problems.append(document)
                continue
            documents.append(document)
            if bot not in self.bots:
                hint = (
                    f"declare it under bots: in {FILE}, or delete the file" if is_name(bot) else "name it after a bot"
                )
                problems.append(document.problem((), f"the policy knows no bot {bot!r}", hint=hint))
            found[bot] = {}
            for raw, (key, at) in key_files.read_keys(document, bot, problems).items():
                if owners.setdefault(raw, bot) != bot:
                    what = f"this key is also {owners[raw]}'s: a key belongs to one bot"
                    problems.append(document.problem(("keys", at), what, hint="make a key for each bot"))
                found[bot][raw] = key
        for bot in self.bots:
            if bot not in found:
                note = self.reader.document.problem(
                    ("bots", bot), f"{bot} has no key yet", hint=f"sealbus keys new {bot}"
                )
                self.notes.append(note)
        used = {name for rule in self.subjects for name in (*rule.schemas, *([rule.reply.name] if rule.reply else []))}
        self.notes += [
            Problem(f"schemas/{name}.json", 0, 0, "is used by no subject") for name in self.schemas if name not in used
        ]
        return found

    def policy(self, keys: dict[str, dict[bytes, BotKey]], bus_keys: frozenset[PublicKey], digest: bytes) -> Policy:
        bots = {
            name: BotRule(
                name,
                MappingProxyType(keys.get(name, {})),
                publish=tuple(dict.fromkeys((*EVERYONE, *grants.publish))),
                subscribe=tuple(dict.fromkeys(grants.subscribe)),
                roles=grants.roles,
            )
            for name, grants in self.bots.items()
        }
        return Policy(
            bus=self.bus,
            digest=digest,
            bus_keys=frozenset(key.raw for key in bus_keys),
            bots=MappingProxyType(bots),
            subjects=(*self.subjects, *builtin_subjects()),
            limits=self.limits,
            on_violation=MappingProxyType(self.on_violation),
            default_disposition=self.default,
        )
