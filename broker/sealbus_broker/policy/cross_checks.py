"""Checks between the fields of ``policy.yaml``, and between the files of a folder.

Each function adds to a list of problems, which stop a relay, or of notes, which stop nothing. None
raises.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from sealbus.nats.addresses import is_encrypted
from sealbus.protocol.subjects import RELAY, beyond_stars, is_name, overlap
from sealbus_broker.escape import readable
from sealbus_broker.gate.identities import Identity
from sealbus_broker.gate.policy import Policy
from sealbus_broker.gate.subject_table import SubjectTable
from sealbus_broker.policy.builtin import builtin_subjects
from sealbus_broker.policy.bus_file import FILE as BUS_FILE
from sealbus_broker.policy.bus_file import BusFile
from sealbus_broker.policy.document import Document, KeyPath
from sealbus_broker.policy.keys import KeyFiles
from sealbus_broker.policy.policy_file import PolicyDraft
from sealbus_broker.policy.problems import Problem, similar
from sealbus_broker.policy.reader import Reader
from sealbus_broker.policy.schemas.files import Schemas

ISSUER_HINT: Final = "`sealbus keys issuer`, where the bus's own keys are, makes it"


def check_overlaps(draft: PolicyDraft, reader: Reader) -> None:
    """Refuse two subjects of which both cover some subject: it is not clear which rule holds."""
    # Literal subjects cannot overlap each other, and a mapping has no doubles. So only patterns are
    # compared.
    patterns = [
        rule.pattern for rule in draft.subjects if "*" in rule.pattern or rule.pattern.endswith(">")
    ]
    table = SubjectTable((rule.pattern, rule.pattern) for rule in draft.subjects)
    for pattern in patterns:
        for other in table.overlapping(pattern):
            if other != pattern:
                what = f"{pattern} and {other} overlap, so it is not clear which rule holds"
                reader.problem(("subjects", pattern), what, hint="make one of them narrower")


def check_grants_are_enforceable(draft: PolicyDraft, reader: Reader) -> None:
    """Refuse grants to subscribe that nats-server could not keep a session to.

    For it ``news.*`` covers ``news.>`` (2.15.1), so a session is denied everything below
    ``news.*``. Then it cannot have a part of that by another grant.
    """
    for bot, grants in draft.bots.items():
        for grant, deep in beyond_stars(grants.subscribe).items():
            part = next((one for one in grants.subscribe if overlap(deep, one)), None)
            if part is not None:
                what = f"{bot} cannot subscribe to both {grant} and {part}, which goes on below it"
                hint = f"grant {deep} as well, or name the subjects of {grant} one by one"
                reader.problem(("bots", bot), what, hint=hint)


def check_causes_are_declared(draft: PolicyDraft, reader: Reader) -> None:
    """Refuse a cause that no declared subject can be: its rule could never be met."""
    declared = SubjectTable((rule.pattern, True) for rule in (*draft.subjects, *builtin_subjects()))
    for rule in draft.subjects:
        if rule.cause is None or any(declared.overlapping(rule.cause.subject)):
            continue
        path: KeyPath = ("subjects", rule.pattern, "cause", "subject")
        patterns = [other.pattern for other in draft.subjects]
        hint = similar(rule.cause.subject, patterns, reader.problems)
        what = "no declared subject can be this cause"
        reader.problem(path, what, got=rule.cause.subject, hint=hint)


def note_causes_out_of_reach(draft: PolicyDraft, document: Document, notes: list[Problem]) -> None:
    """Note a bot that may publish a message, and may not receive its cause, which proves it."""

    rules = SubjectTable(
        (rule.pattern, (rule.pattern, rule.cause.subject))
        for rule in draft.subjects
        if rule.cause is not None
    )

    @cache  # bots share grants, and one of them may cover each subject
    def causes(grant: str) -> list[tuple[str, str]]:
        return list(rules.overlapping(grant))

    for bot, grants in draft.bots.items():
        for pattern, cause in dict.fromkeys(
            one for grant in grants.publish for one in causes(grant)
        ):
            if not any(overlap(grant, cause) for grant in (*grants.subscribe, *grants.publish)):
                what = f"{bot} may publish {pattern}, but may not receive its cause {cause}"
                hint = "grant it, or its messages there will all be refused"
                notes.append(document.problem(("bots", bot), what, hint=hint))


def note_bots_without_key(
    draft: PolicyDraft, document: Document, keys: KeyFiles, notes: list[Problem]
) -> None:
    """Note a bot that cannot connect, because it has no key."""
    for bot in draft.bots:
        # A bot with identities has no need of one.
        if bot not in keys.by_bot and is_name(bot) and not draft.bots[bot].identities:
            name = readable(bot, 80)
            what = f"{name} has no key yet"
            notes.append(document.problem(("bots", bot), what, hint=f"sealbus keys new {name}"))


def note_bound_bots(
    draft: PolicyDraft, bus: BusFile | None, document: Document, notes: list[Problem]
) -> None:
    """Note a certificate that is for two bots, and a binding on a bus without TLS."""
    first: dict[str, str] = {}
    for bot, grants in draft.bots.items():
        path: KeyPath = ("bots", bot, "certificate")
        for name in grants.certificate_names:
            if (other := first.setdefault(name, bot)) != bot:
                what = f"{bot} and {other} may use the same certificate, {readable(name, 200)}"
                hint = "a certificate for each bot keeps them apart"
                notes.append(document.problem(path, what, hint=hint))
        if grants.certificate_names and bus is not None and not any(map(is_encrypted, bus.servers)):
            what = f"{bot} can connect by TLS alone, and {BUS_FILE} names no server with TLS"
            hint = "`sealbus certs init` gives the bus TLS"
            notes.append(document.problem(path, what, hint=hint))


def check_session_issuer(draft: PolicyDraft, reader: Reader, keys: KeyFiles) -> None:
    """Refuse identities where the bus has no session-issuer key: nobody could use them."""
    if keys.by_bot.get(RELAY):
        return
    bot = next((name for name, grants in draft.bots.items() if grants.identities), None)
    if bot is not None:
        what = f"identities need the bus's session-issuer key, and keys/{RELAY}.yaml has none"
        reader.problem(("bots", bot, "identities"), what, hint=ISSUER_HINT)


def note_identities(draft: PolicyDraft, document: Document, notes: list[Problem]) -> None:
    """Note an identity that stands for two bots, and a provider that no identity names."""
    owners: dict[Identity, str] = {}
    for bot, grants in draft.bots.items():
        for at, one in enumerate(grants.identities):
            if (first := owners.setdefault(one, bot)) != bot:
                what = f"this identity also stands for {first}"
                hint = "its holder can log in as both bots; is that right?"
                path: KeyPath = ("bots", bot, "identities", at)
                notes.append(document.problem(path, what, hint=hint))
    used = {one.provider.name for one in owners}
    for name, provider in draft.providers.items():
        if provider is not None and name not in used:
            place: KeyPath = ("identity_providers", name)
            notes.append(document.problem(place, "no bot has an identity of this provider"))


def note_unused_schemas(draft: PolicyDraft, schemas: Schemas, notes: list[Problem]) -> None:
    """Note a schema that no subject names."""
    used = {
        name
        for rule in draft.subjects
        for name in (*rule.schemas, *([rule.reply.name] if rule.reply else []))
    }
    notes += [
        Problem(f"schemas/{name}.json", 0, 0, "no subject names this schema")
        for name in schemas.compiled
        if name not in used
    ]


def check_same_bus(draft: PolicyDraft, bus: BusFile | None, problems: list[Problem]) -> None:
    """Refuse a ``bus.toml`` of another bus than ``policy.yaml``."""
    if bus is not None and draft.bus and bus.name != draft.bus:
        what = "is another bus's file"
        hint = "policy.yaml and bus.toml both have the name, and must agree"
        problems.append(Problem(BUS_FILE, 0, 0, what, got=bus.name, expected=draft.bus, hint=hint))


def check_retention(policy: Policy, reader: Reader) -> None:
    """Refuse a retention that is shorter than the ledger's window.

    Ids are remembered together with the messages that carry them. A forgotten message can be
    replayed.
    """
    if policy.limits.retention_ms >= policy.ledger_window_ms:
        return
    what = "retention is shorter than the nonce ledger must remember"
    expected = (
        f"at least {policy.ledger_window_ms} ms, for the retries of a"
        " message, its longest `ttl`, `ingress_wait`, the longest `within` of a `once` cause, and a"
        " margin"
    )
    got = f"{policy.limits.retention_ms} ms"
    reader.problem(("limits", "retention"), what, got=got, expected=expected)
