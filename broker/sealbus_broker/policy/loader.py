"""A bus's folder becomes one :class:`Policy`, or a list of everything that is wrong with it. A bad folder is refused whole."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sealbus.protocol.keys import PublicKey
from sealbus.protocol.reason import Reason
from sealbus.protocol.subjects import RELAY, RESERVED, check_name, check_pattern, is_name, is_pattern, overlap
from sealbus_broker.gate.policy import BotKey, BotRule, CauseRule, Delivery, Disposition, Limits, Policy, SubjectRule
from sealbus_broker.gate.schemas import Schema
from sealbus_broker.policy.builtin import EVERYONE, builtin_subjects
from sealbus_broker.policy.bus_file import FILE as BUS_FILE
from sealbus_broker.policy.bus_file import read_bus_file
from sealbus_broker.policy.document import Document, Path_, look_alikes, read_yaml
from sealbus_broker.policy.keys import FOLDER as KEYS
from sealbus_broker.policy.keys import KeyFiles, keys_of_the_bus, read_key_files
from sealbus_broker.policy.limits import PAYLOAD, read_limits
from sealbus_broker.policy.problems import Problem, nearest
from sealbus_broker.policy.reader import Reader
from sealbus_broker.policy.schema_files import FOLDER as SCHEMAS
from sealbus_broker.policy.schema_files import Schemas, read_schemas
from sealbus_broker.printable import printable

FILE: Final = "policy.yaml"

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+")

MAX_CAUSE_MS: Final = 24 * 3_600_000
"""Longest ``within`` of a cause with ``once``: the ledger keeps every id in memory for so long, about 150 bytes each."""


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
    try:
        found = folder.is_dir()
    except (OSError, ValueError):  # a name that the system does not take
        found = False
    if not found:
        missing = Problem(printable(str(folder), 300), 0, 0, "is not a folder", hint="make one with `sealbus init`")
        return Loaded(None, (missing,), ())
    problems += look_alikes(folder, (FILE, BUS_FILE, SCHEMAS, KEYS))
    bus = read_bus_file(folder, problems)
    schemas = read_schemas(folder, problems)
    notes += schemas.notes
    document = read_yaml(folder, FILE)
    if isinstance(document, Problem):
        return Loaded(None, _sorted([*problems, document]), ())
    loading = _Loading(Reader(document, problems), schemas, notes)
    loading.read()
    keys = loading.read_keys(folder)
    own = frozenset(key.raw for key in (*bus_keys, *(bus.bus_keys if bus is not None else ())))
    problems += keys_of_the_bus(keys, own)
    if bus is not None and loading.bus and bus.name != loading.bus:
        what, hint = "is another bus's file", "the name stands in policy.yaml and in bus.toml: both have to agree"
        problems.append(Problem(BUS_FILE, 0, 0, what, got=bus.name, expected=loading.bus, hint=hint))
    if problems:
        return Loaded(None, _sorted(problems), _sorted(notes))
    digest = _digest([document, *schemas.documents, *keys.documents])
    policy = loading.policy(keys.by_bot, bus_keys, digest)
    if policy.limits.retention_ms < policy.ledger_window_ms:
        # Ids are remembered with the messages that carry them: what is forgotten can be replayed.
        expected = f"at least {policy.ledger_window_ms} ms: a message's retries, its longest life or `once` cause, and its longest wait"
        what = "retention is shorter than the nonce ledger must remember"
        loading.reader.note(("limits", "retention"), what, got=f"{policy.limits.retention_ms} ms", expected=expected)
        return Loaded(None, _sorted(problems), _sorted(notes))
    return Loaded(policy, (), _sorted(notes))


def _sorted(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(set(problems), key=lambda one: (one.file, one.line, one.column, one.what, str(one))))


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

    def __init__(self, reader: Reader, schemas: Schemas, notes: list[Problem]) -> None:
        self.reader = reader
        self.schemas = schemas
        self.notes = notes
        self.bus = ""
        self.limits = Limits()
        self.on_violation: dict[Reason, Disposition] = {}
        self.default = Disposition.QUARANTINE
        self.subjects: list[SubjectRule] = []
        self.bots: dict[str, _Grants] = {}
        self.declared: list[str] = []
        """Every pattern that a grant may cover."""
        self.dear: set[str] = set()
        """Schemas that were found to cost too much."""
        self.covering: set[str] = set()
        """Grants known to cover one."""

    def read(self) -> None:
        known = ("version", "bus", "limits", "on_violation", "roles", "bots", "subjects")
        top = self.reader.mapping(self.reader.document.value, (), known)
        if top.get("version") != 1 or isinstance(top.get("version"), bool):
            self.reader.note(
                ("version",), "the version of this file is not known", got=top.get("version"), expected="version: 1"
            )
        bus = self.reader.checked(top.get("bus"), ("bus",), "bus", lambda text: check_name(text, "bus"))
        self.bus = bus or ""
        self.limits = read_limits(self.reader, top.get("limits"))
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
        # The names as written, so that a mistake inside one subject is not reported again at every grant on it.
        self.declared = [name for name in subjects if is_pattern(name)] + [rule.pattern for rule in builtin_subjects()]
        self.covering = set(self.declared)
        self.read_bots(top)
        self.check_causes()

    def disposition(self, value: Any, path: Path_) -> Disposition | None:
        text = self.reader.choice(value, path, "what to do", [one.value for one in Disposition])
        return Disposition(text) if text else None

    def dispositions(self, given: dict[str, Any], path: Path_) -> dict[Reason, Disposition]:
        read = {Reason(name): self.disposition(value, (*path, name)) for name, value in given.items()}
        return {reason: one for reason, one in read.items() if one is not None}

    def read_subject(self, name: str, value: Any) -> None:
        path: Path_ = ("subjects", name)
        known = ("delivery", "schema", "rate", "max_bytes", "reply", "cause", "on_violation")
        given = self.reader.mapping(value, path, known)
        if self.reader.checked(name, path, "subject", check_pattern) is None:
            return
        first = name.split(".", maxsplit=1)[0]
        if first in RESERVED:
            self.reader.note(path, f"{first}.* belongs to the bus itself", hint="choose another first token")
            return
        if first in ("*", ">"):
            what = "the first token of a declared subject may not be a wildcard"
            self.reader.note(
                path, what, got=name, hint="it would also stand for the bus's own subjects; begin with a name"
            )
            return
        delivery = Delivery.STREAM
        if "delivery" in given:
            chosen = self.reader.choice(
                given["delivery"], (*path, "delivery"), "delivery", [one.value for one in Delivery]
            )
            delivery = Delivery(chosen) if chosen else delivery
        most: int | None = self.limits.payload_bytes
        if "max_bytes" in given:
            most = self.reader.size(given["max_bytes"], (*path, "max_bytes"), "max_bytes", *PAYLOAD)
        names = self.reader.texts(given.get("schema"), (*path, "schema"), "schema")
        schemas = [self.schema(text, place) for place, text in names]
        if given.get("schema") in (None, []):
            hint = "name one, like orders.placed.v1; a schema `true` accepts everything"
            self.reader.note(path, f"subject {name} has no schema", hint=hint)
        reply = None
        if "reply" in given:
            text = self.reader.text(given["reply"], (*path, "reply"), "reply")
            reply = self.schema(text, (*path, "reply")) if text else None
            if delivery is not Delivery.LIVE:
                self.reader.note((*path, "reply"), "only a live subject takes replies", hint="add `delivery: live`")
        rule = SubjectRule(
            pattern=name,
            delivery=delivery,
            schemas=MappingProxyType({schema.name: schema for schema in schemas if schema}),
            rate=self.reader.rate(given["rate"], (*path, "rate")) if "rate" in given else None,
            reply=reply,
            cause=self.read_cause(given["cause"], (*path, "cause"), delivery) if "cause" in given else None,
            on_violation=MappingProxyType(
                self.subject_dispositions(given.get("on_violation"), (*path, "on_violation"))
            ),
            max_bytes=most or self.limits.payload_bytes,
        )
        self.subjects.append(rule)
        self.check_work(rule)

    def check_work(self, rule: SubjectRule) -> None:
        """Note the schemas by which a payload of this subject could take too long to judge."""
        for schema in (*rule.schemas, *([rule.reply.name] if rule.reply else [])):
            dear = self.schemas.measured[schema].too_dear(rule.pattern, rule.max_bytes, rule.max_values)
            if dear is not None and schema not in self.dear:
                self.dear.add(schema)
                self.reader.problems.append(dear)

    def subject_dispositions(self, value: Any, path: Path_) -> dict[Reason, Disposition]:
        return self.dispositions(self.reader.mapping(value, path, [reason.value for reason in Reason]), path)

    def schema(self, name: str, path: Path_) -> Schema | None:
        # A file that is there but cannot be used has its own problem; that it is missing here is no second one.
        if name not in self.schemas.present:
            expected = f"a file schemas/{printable(name)}.json"
            self.reader.note(
                path, "there is no such schema", got=name, expected=expected, hint=nearest(name, self.schemas.present)
            )
        return self.schemas.compiled.get(name)

    def read_cause(self, value: Any, path: Path_, delivery: Delivery) -> CauseRule | None:
        given = self.reader.mapping(value, path, ("subject", "within", "match", "once"))
        subject = self.reader.checked(given.get("subject"), (*path, "subject"), "subject", check_pattern)
        within = self.reader.duration(given.get("within"), (*path, "within"), "within", 1000, MAX_CAUSE_MS)
        once = self.reader.flag(given["once"], (*path, "once"), "once") if "once" in given else False
        pointers = self.reader.texts(given.get("match"), (*path, "match"), "match")
        for place, pointer in pointers:
            if _POINTER.fullmatch(pointer) is None:
                expected = "a pointer like /order_id; in a name, ~ is written ~0 and / is written ~1"
                self.reader.note(place, "is not a JSON pointer", got=pointer, expected=expected)
        if subject is None or within is None:
            return None
        if once and delivery is Delivery.LIVE and within > self.limits.live_ttl_ms:
            what = "with `once` on a live subject, within may not be longer than limits.live_ttl"
            hint = "live messages are remembered no longer; use a stream subject"
            self.reader.note((*path, "within"), what, expected=f"at most {self.limits.live_ttl_ms} ms", hint=hint)
        return CauseRule(subject, within, tuple(pointer for _, pointer in pointers), once)

    def check_subjects(self) -> None:
        # Literal subjects cannot overlap each other, and mappings have no doubles: only patterns need comparing.
        patterns = [rule.pattern for rule in self.subjects if "*" in rule.pattern or rule.pattern.endswith(">")]
        for pattern in patterns:
            for rule in self.subjects:
                if rule.pattern != pattern and overlap(pattern, rule.pattern):
                    what = f"{pattern} and {rule.pattern} overlap, so it is not clear which rule holds"
                    self.reader.note(("subjects", pattern), what, hint="make one of them narrower")
        declared = [*self.subjects, *builtin_subjects()]
        for rule in self.subjects:
            if rule.cause is not None and not any(overlap(rule.cause.subject, other.pattern) for other in declared):
                path: Path_ = ("subjects", rule.pattern, "cause", "subject")
                hint = nearest(rule.cause.subject, [other.pattern for other in self.subjects])
                self.reader.note(path, "no declared subject can be this cause", got=rule.cause.subject, hint=hint)

    def check_causes(self) -> None:
        """A cause is proven with a message that the bot may receive: without that grant its rule can never be met."""

        @cache  # bots share grants: 10,000 of them with 500 rules would take half a minute
        def causes(grant: str) -> list[tuple[str, str]]:
            rules = [(rule.pattern, rule.cause.subject) for rule in self.subjects if rule.cause is not None]
            return [(pattern, cause) for pattern, cause in rules if overlap(grant, pattern)]

        for bot, grants in self.bots.items():
            for pattern, cause in dict.fromkeys(one for grant in grants.publish for one in causes(grant)):
                if not any(overlap(grant, cause) for grant in (*grants.subscribe, *grants.publish)):
                    what = f"{bot} may publish {pattern}, but may not receive its cause {cause}"
                    self.note(("bots", bot), what, "grant it, or its messages there will all be refused")

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
                    expected = printable(" or ".join(roles), 200) if roles else "a role declared under roles"
                    self.reader.note(
                        place, "there is no such role", got=role, expected=expected, hint=nearest(role, roles)
                    )
            sources = [own, *(roles[role] for _, role in names if role in roles)]
            self.bots[name] = _Grants(
                [grant for one in sources for grant in one.publish],
                [grant for one in sources for grant in one.subscribe],
                tuple(role for _, role in names),
            )

    def read_grants(self, value: Any, path: Path_, known: tuple[str, ...]) -> _Grants:
        given = self.reader.mapping(value, path, known)
        publish = self.read_patterns(given.get("publish"), (*path, "publish"))
        subscribe = self.read_patterns(given.get("subscribe"), (*path, "subscribe"))
        return _Grants(publish, subscribe)

    def read_patterns(self, value: Any, path: Path_) -> list[str]:
        found: list[str] = []
        for place, text in self.reader.texts(value, path, path[-1] if isinstance(path[-1], str) else "grants"):
            if self.reader.checked(text, place, "pattern", check_pattern) is None:
                continue
            if text.split(".")[0] in ("*", ">"):
                # It would reach the bus's own subjects, and other bots' answers, too.
                what = "the first token of a grant may not be a wildcard"
                self.reader.note(place, what, got=text, hint="grant orders.> and stock.> rather than everything")
                continue
            if text not in self.covering and not any(overlap(text, pattern) for pattern in self.declared):
                hint = nearest(text, self.declared) or "declare the subject under subjects, or take the grant away"
                self.reader.note(place, "the grant covers no declared subject", got=text, hint=hint)
            else:
                self.covering.add(text)
            found.append(text)
        return found

    def read_keys(self, folder: Path) -> KeyFiles:
        keys = read_key_files(folder, frozenset(self.bots), self.reader.problems)
        for bot in self.bots:
            if bot not in keys.by_bot and is_name(bot):
                self.note(("bots", bot), f"{printable(bot)} has no key yet", f"sealbus keys new {printable(bot)}")
        used = {name for rule in self.subjects for name in (*rule.schemas, *([rule.reply.name] if rule.reply else []))}
        for name in self.schemas.compiled:
            if name not in used:
                self.notes.append(Problem(f"schemas/{name}.json", 0, 0, "no subject names this schema"))
        return keys

    def note(self, path: Path_, what: str, hint: str | None = None) -> None:
        self.notes.append(self.reader.document.problem(path, what, hint=hint))

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
