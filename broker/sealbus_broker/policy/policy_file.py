"""``policy.yaml``: read, and each of its fields checked by itself.

:func:`read_policy_file` returns a :class:`PolicyDraft`. A field that cannot be used is noted as a
problem, and reading goes on with a default, so that one run finds all problems. Checks between
fields, and between files, are in :mod:`sealbus_broker.policy.cross_checks`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sealbus.protocol.reason import Reason
from sealbus.protocol.subjects import (
    RELAY,
    RESERVED,
    check_name,
    check_pattern,
    is_pattern,
)
from sealbus.protocol.together import Together
from sealbus_broker.escape import readable
from sealbus_broker.gate.identities import Identity, Provider
from sealbus_broker.gate.policy import CauseRule, DeliveryClass, Disposition, Limits, SubjectRule
from sealbus_broker.gate.schemas import Schema
from sealbus_broker.gate.subject_table import SubjectTable
from sealbus_broker.policy.builtin import builtin_subjects
from sealbus_broker.policy.certificate_names import MAX_NAMES, check_certificate_name
from sealbus_broker.policy.document import KeyPath
from sealbus_broker.policy.identities import read_identities, read_providers
from sealbus_broker.policy.limits import PAYLOAD, read_limits
from sealbus_broker.policy.problems import similar
from sealbus_broker.policy.reader import Reader
from sealbus_broker.policy.schemas.files import Schemas

FILE: Final = "policy.yaml"

MAX_CAUSE_MS: Final = 24 * 3_600_000
"""The longest ``within`` of a cause with ``once``. The ledger keeps every id in memory for that
time, about 150 bytes each."""

_TOP: Final = (
    *("version", "bus", "limits", "on_violation", "identity_providers", "roles", "bots"),
    "subjects",
)
_BOT: Final = ("roles", "publish", "subscribe", "seals_directly", "certificate", "identities")
_SUBJECT: Final = ("delivery", "schema", "rate", "max_bytes", "reply", "cause", "on_violation")
_REASONS: Final = tuple(reason.value for reason in Reason)
_POINTER: Final = re.compile(r"(?:/(?:[^~/]|~[01])*)+")


@dataclass(frozen=True, slots=True)
class GrantPatterns:
    """The patterns that a bot or a role may use, how the bot may seal and connect, and who may
    stand for it."""

    publish: list[str]
    subscribe: list[str]
    roles: tuple[str, ...] = ()
    seals_directly: bool = False
    certificate_names: tuple[str, ...] = ()
    """The names of certificates to which the bot is bound."""
    identities: tuple[Identity, ...] = ()


@dataclass(slots=True)
class PolicyDraft:
    """The content of ``policy.yaml``, as far as it could be read."""

    bus: str = ""
    """The bus's name. Empty: it could not be read."""
    limits: Limits = field(default_factory=Limits)
    on_violation: dict[Reason, Disposition] = field(default_factory=dict)
    default: Disposition = Disposition.QUARANTINE
    """The disposition of a reason that ``on_violation`` does not name."""
    subjects: list[SubjectRule] = field(default_factory=list)
    bots: dict[str, GrantPatterns] = field(default_factory=dict)
    """The grants of each bot, with those of its roles."""
    providers: dict[str, Provider | None] = field(default_factory=dict)
    """The identity providers. ``None``: one that could not be read."""


def read_policy_file(reader: Reader, schemas: Schemas, folder: Path) -> PolicyDraft:
    """Read the document of ``reader``, which takes the problems.

    Args:
        reader: Has the document of ``policy.yaml``.
        schemas: The folder's schemas, which the subjects name.
        folder: The bus's folder, to which paths in the file are relative.
    """
    draft = PolicyDraft()
    top = reader.mapping(reader.document.value, (), _TOP)
    version = top.get("version")
    # For Python True is 1.
    if version != 1 or isinstance(version, bool):
        what = "the version of this file is not known"
        reader.problem(("version",), what, got=version, expected="version: 1")
    name = reader.checked(top.get("bus"), ("bus",), "bus", lambda text: check_name(text, "bus"))
    draft.bus = name or ""
    draft.limits = read_limits(reader, top.get("limits"))
    path: KeyPath = ("on_violation",)
    violation = reader.mapping(top.get("on_violation"), path, ("default", *_REASONS))
    if "default" in violation:
        given = _disposition(reader, violation.pop("default"), (*path, "default"))
        draft.default = given or draft.default
    draft.on_violation = _dispositions(reader, violation, path)
    subjects = reader.mapping(top.get("subjects"), ("subjects",))
    if not subjects:
        reader.problem(
            ("subjects",), "declares no subject", hint="a bus without subjects carries nothing"
        )
    draft.subjects = _Subjects(reader, schemas, draft.limits).read(subjects)
    # The names as written, so that a mistake in a subject is not reported again at each grant on
    # it.
    declared = [name for name in subjects if is_pattern(name)]
    declared += [rule.pattern for rule in builtin_subjects()]
    draft.providers = read_providers(reader, top.get("identity_providers"), folder)
    draft.bots = _Bots(reader, declared, draft.providers).read(top)
    return draft


def _disposition(reader: Reader, value: Any, path: KeyPath) -> Disposition | None:
    text = reader.choice(value, path, "what to do", [one.value for one in Disposition])
    return Disposition(text) if text else None


def _dispositions(
    reader: Reader, given: dict[str, Any], path: KeyPath
) -> dict[Reason, Disposition]:
    read = {
        Reason(name): _disposition(reader, value, (*path, name)) for name, value in given.items()
    }
    return {reason: one for reason, one in read.items() if one is not None}


class _Subjects:
    """Reads ``subjects``."""

    def __init__(self, reader: Reader, schemas: Schemas, limits: Limits) -> None:
        self._reader = reader
        self._schemas = schemas
        self._limits = limits
        self._costly: set[str] = set()
        """The schemas that were found to cost too much: each is reported once."""

    def read(self, subjects: dict[str, Any]) -> list[SubjectRule]:
        rules = []
        for name, value in subjects.items():
            rule = self._subject(name, value)
            if rule is not None:
                self._check_work(rule)
                rules.append(replace(rule, together=self._together(rule)))
        return rules

    def _subject(self, name: str, value: Any) -> SubjectRule | None:
        reader = self._reader
        path: KeyPath = ("subjects", name)
        given = reader.mapping(value, path, _SUBJECT)
        if not self._is_free(name, path):
            return None
        delivery = DeliveryClass.STREAM
        if "delivery" in given:
            known = [one.value for one in DeliveryClass]
            chosen = reader.choice(given["delivery"], (*path, "delivery"), "delivery", known)
            delivery = DeliveryClass(chosen) if chosen else delivery
        most: int | None = self._limits.payload_bytes
        if "max_bytes" in given:
            most = reader.size(given["max_bytes"], (*path, "max_bytes"), "max_bytes", *PAYLOAD)
        names = reader.texts(given.get("schema"), (*path, "schema"), "schema")
        schemas = [self._schema(text, place) for place, text in names]
        if given.get("schema") in (None, []):
            hint = "name one, like orders.placed.v1; a schema `true` accepts everything"
            reader.problem(path, f"subject {name} has no schema", hint=hint)
        reply = None
        if "reply" in given:
            text = reader.text(given["reply"], (*path, "reply"), "reply")
            reply = self._schema(text, (*path, "reply")) if text else None
            if delivery is not DeliveryClass.LIVE:
                what = "only a live subject takes replies"
                reader.problem((*path, "reply"), what, hint="add `delivery: live`")
        rate = reader.rate(given["rate"], (*path, "rate")) if "rate" in given else None
        cause = (
            self._cause(given["cause"], (*path, "cause"), delivery) if "cause" in given else None
        )
        kept: KeyPath = (*path, "on_violation")
        on_violation = reader.mapping(given.get("on_violation"), kept, _REASONS)
        return SubjectRule(
            pattern=name,
            delivery=delivery,
            schemas=MappingProxyType({schema.name: schema for schema in schemas if schema}),
            rate=rate,
            reply=reply,
            cause=cause,
            on_violation=MappingProxyType(_dispositions(reader, on_violation, kept)),
            max_bytes=most or self._limits.payload_bytes,
        )

    def _is_free(self, name: str, path: KeyPath) -> bool:
        """Whether a bus may declare this subject; if not, the problem is noted."""
        if self._reader.checked(name, path, "subject", check_pattern) is None:
            return False
        first = name.split(".", maxsplit=1)[0]
        if first in RESERVED:
            what = f"{first}.* belongs to the bus itself"
            self._reader.problem(path, what, hint="choose another first token")
            return False
        if first in ("*", ">"):
            what = "the first token of a declared subject may not be a wildcard"
            hint = "it would also stand for the bus's own subjects; begin with a name"
            self._reader.problem(path, what, got=name, hint=hint)
            return False
        return True

    def _check_work(self, rule: SubjectRule) -> None:
        """Note the schemas by which a payload of this subject could take too long to judge."""
        for schema in (*rule.schemas, *([rule.reply.name] if rule.reply else [])):
            measured = self._schemas.measured[schema]
            costly = measured.too_dear(rule.pattern, rule.max_bytes, rule.max_values)
            if costly is not None and schema not in self._costly:
                self._costly.add(schema)
                self._reader.problems.append(costly)

    def _together(self, rule: SubjectRule) -> Together:
        """Work out how many payloads may share an envelope on this subject."""
        measured = [self._schemas.measured[name] for name in rule.schemas]
        each = [one.together(rule.max_values) for one in measured]
        return Together(
            min((one.payloads for one in each), default=1),
            min((one.size for one in each), default=1),
        )

    def _schema(self, name: str, path: KeyPath) -> Schema | None:
        # A file that is there and cannot be used has a problem of its own.
        if name not in self._schemas.present:
            expected = f"a file schemas/{readable(name, 80)}.json"
            hint = similar(name, self._schemas.present, self._reader.problems)
            self._reader.problem(
                path, "there is no such schema", got=name, expected=expected, hint=hint
            )
        return self._schemas.compiled.get(name)

    def _cause(self, value: Any, path: KeyPath, delivery: DeliveryClass) -> CauseRule | None:
        reader = self._reader
        given = reader.mapping(value, path, ("subject", "within", "match", "once", "show"))
        subject = reader.checked(given.get("subject"), (*path, "subject"), "subject", check_pattern)
        within = reader.duration(
            given.get("within"), (*path, "within"), "within", 1000, MAX_CAUSE_MS
        )
        once = reader.flag(given["once"], (*path, "once"), "once") if "once" in given else False
        show = reader.flag(given["show"], (*path, "show"), "show") if "show" in given else False
        pointers = reader.texts(given.get("match"), (*path, "match"), "match")
        for place, pointer in pointers:
            if _POINTER.fullmatch(pointer) is None:
                expected = (
                    "a pointer like /order_id; in a name, ~ is written ~0 and / is written ~1"
                )
                reader.problem(place, "is not a JSON pointer", got=pointer, expected=expected)
        if subject is None or within is None:
            return None
        if once and delivery is DeliveryClass.LIVE and within > self._limits.live_ttl_ms:
            what = "with `once` on a live subject, within may not be longer than limits.live_ttl"
            hint = "live messages are remembered no longer; use a stream subject"
            expected = f"at most {self._limits.live_ttl_ms} ms"
            reader.problem((*path, "within"), what, expected=expected, hint=hint)
        return CauseRule(subject, within, tuple(pointer for _, pointer in pointers), once, show)


class _Bots:
    """Reads ``roles`` and ``bots``."""

    def __init__(
        self, reader: Reader, declared: list[str], providers: dict[str, Provider | None]
    ) -> None:
        """``declared``: every pattern that a grant may cover."""
        self._providers = providers
        self._reader = reader
        self._declared = declared
        self._table = SubjectTable((pattern, True) for pattern in declared)
        self._covering = set(declared)
        """The grants that are known to cover a declared pattern: bots share grants."""

    def read(self, top: dict[str, Any]) -> dict[str, GrantPatterns]:
        reader = self._reader
        roles = {
            name: self._grants(value, ("roles", name), ("publish", "subscribe"))
            for name, value in reader.mapping(top.get("roles"), ("roles",)).items()
        }
        bots: dict[str, GrantPatterns] = {}
        for name, value in reader.mapping(top.get("bots"), ("bots",)).items():
            path: KeyPath = ("bots", name)
            reader.checked(name, path, "bot", check_name)
            if name == RELAY:
                reader.problem(path, f"{RELAY} is the relay's own name", hint="choose another")
            own = self._grants(value, path, _BOT)
            given = value if isinstance(value, dict) else {}
            names = reader.texts(given.get("roles"), (*path, "roles"), "roles")
            for place, role in names:
                if role not in roles:
                    known = (
                        readable(" or ".join(roles), 200)
                        if roles
                        else "a role declared under roles"
                    )
                    hint = similar(role, roles, reader.problems)
                    reader.problem(
                        place, "there is no such role", got=role, expected=known, hint=hint
                    )
            directly = "seals_directly" in given and reader.flag(
                given["seals_directly"], (*path, "seals_directly"), "seals_directly"
            )
            identities: tuple[Identity, ...] = ()
            if "identities" in given:
                place = (*path, "identities")
                identities = read_identities(reader, given["identities"], place, self._providers)
            if directly and "identities" in given:
                what = "a bot with identities may not seal directly"
                # The bus's own key would be among those that may.
                hint = "take seals_directly away: its session keys come from its tokens"
                reader.problem((*path, "seals_directly"), what, hint=hint)
            sources = [own, *(roles[role] for _, role in names if role in roles)]
            bots[name] = GrantPatterns(
                [grant for one in sources for grant in one.publish],
                [grant for one in sources for grant in one.subscribe],
                tuple(role for _, role in names),
                seals_directly=directly,
                certificate_names=self._certificate_names(given, (*path, "certificate")),
                identities=identities,
            )
        return bots

    def _certificate_names(self, given: dict[str, Any], path: KeyPath) -> tuple[str, ...]:
        """The names to which a bot is bound. An empty list would look like a binding."""
        if "certificate" not in given:
            return ()
        reader = self._reader
        texts = reader.texts(given["certificate"], path, "certificate")
        if given["certificate"] in (None, []) or len(texts) > MAX_NAMES:
            expected = f"one name, or a list of 1 to {MAX_NAMES}"
            reader.problem(
                path, "has no name, or too many", got=given["certificate"], expected=expected
            )
        names = (
            reader.checked(text, place, "certificate", check_certificate_name)
            for place, text in texts
        )
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def _grants(self, value: Any, path: KeyPath, known: tuple[str, ...]) -> GrantPatterns:
        given = self._reader.mapping(value, path, known)
        publish = self._patterns(given.get("publish"), (*path, "publish"))
        subscribe = self._patterns(given.get("subscribe"), (*path, "subscribe"))
        return GrantPatterns(publish, subscribe)

    def _patterns(self, value: Any, path: KeyPath) -> list[str]:
        found: list[str] = []
        what = path[-1] if isinstance(path[-1], str) else "grants"
        for place, text in self._reader.texts(value, path, what):
            if self._reader.checked(text, place, "pattern", check_pattern) is None:
                continue
            if text.split(".")[0] in ("*", ">"):
                # It would also reach the bus's own subjects, and the answers to other bots.
                problem = "the first token of a grant may not be a wildcard"
                hint = "grant orders.> and stock.> rather than everything"
                self._reader.problem(place, problem, got=text, hint=hint)
                continue
            if text in self._covering or any(self._table.overlapping(text)):
                self._covering.add(text)
            else:
                hint = (
                    similar(text, self._declared, self._reader.problems)
                    or "declare the subject under subjects, or take the grant away"
                )
                self._reader.problem(
                    place, "the grant covers no declared subject", got=text, hint=hint
                )
            found.append(text)
        return found
