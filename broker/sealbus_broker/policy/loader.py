"""A bus's folder becomes one :class:`Policy`, or a list of everything that is wrong with it.

A folder with a problem gives no policy at all. The files are read by modules of their own, and
:mod:`sealbus_broker.policy.cross_checks` compares them. Here they are put together, and their
digest is computed, which names the policy in stamps and logs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sealbus.protocol.keys import PublicKey
from sealbus.protocol.subjects import RELAY
from sealbus_broker.escape import readable
from sealbus_broker.gate.policy import BotRule, Policy
from sealbus_broker.policy import cross_checks
from sealbus_broker.policy.builtin import EVERYONE, builtin_subjects
from sealbus_broker.policy.bus_file import FILE as BUS_FILE
from sealbus_broker.policy.bus_file import read_bus_file
from sealbus_broker.policy.document import Document, KnownFiles, look_alikes, read_yaml
from sealbus_broker.policy.keys import FOLDER as KEYS
from sealbus_broker.policy.keys import KeyFiles, keys_of_the_bus, read_key_files
from sealbus_broker.policy.policy_file import FILE, PolicyDraft, read_policy_file
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.reader import Reader
from sealbus_broker.policy.schemas.files import FOLDER as SCHEMAS
from sealbus_broker.policy.schemas.files import read_schemas
from sealbus_broker.policy.sender_links import chains, check_links


@dataclass(frozen=True, slots=True)
class Loaded:
    """The result for a folder: a policy, or problems. Notes stop nothing."""

    policy: Policy | None
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]


def load(
    folder: Path, bus_keys: frozenset[PublicKey] = frozenset(), known: KnownFiles | None = None
) -> Loaded:
    """Read ``folder``. Raise nothing.

    Args:
        folder: The bus's folder.
        bus_keys: The keys whose stamps count as proof in a parent.
        known: The files of the last reading, where the folder is read again and again.
    """
    if known is not None:
        known.begin()
    problems: list[Problem] = []
    notes: list[Problem] = []
    if not _is_folder(folder):
        shown = readable(str(folder), 300)
        missing = Problem(shown, 0, 0, "is not a folder", hint="make one with `sealbus init`")
        return Loaded(None, (missing,), ())
    problems += look_alikes(folder, (FILE, BUS_FILE, SCHEMAS, KEYS))
    bus = read_bus_file(folder, problems)
    schemas = read_schemas(folder, problems, known)
    notes += schemas.notes
    document = read_yaml(folder, FILE, known=known)
    if isinstance(document, Problem):
        return Loaded(None, _sorted([*problems, document]), ())
    reader = Reader(document, problems)
    draft = read_policy_file(reader, schemas, folder)
    cross_checks.check_overlaps(draft, reader)
    cross_checks.check_grants_are_enforceable(draft, reader)
    cross_checks.check_causes_are_declared(draft, reader)
    cross_checks.note_causes_out_of_reach(draft, document, notes)
    keys = read_key_files(folder, frozenset(draft.bots), problems, known)
    cross_checks.note_bots_without_key(draft, document, keys, notes)
    cross_checks.note_bound_bots(draft, bus, document, notes)
    cross_checks.check_session_issuer(draft, reader, keys)
    cross_checks.note_identities(draft, document, notes)
    # Links are signed for the name of the bus. Without a name each of them would seem wrong.
    for found in keys.documents if draft.bus else ():
        bot = Path(found.file).stem
        check_links(draft.bus, bot, keys.by_bot.get(bot, {}), found, problems, notes)
    cross_checks.note_unused_schemas(draft, schemas, notes)
    # The keys in bus.toml too: `sealbus check` runs where the private ones are not.
    own = (*bus_keys, *(bus.bus_keys if bus is not None else ()))
    problems += keys_of_the_bus(keys, frozenset(key.raw for key in own))
    cross_checks.check_same_bus(draft, bus, problems)
    if problems:
        return Loaded(None, _sorted(problems), _sorted(notes))
    digest = _digest([document, *schemas.documents, *keys.documents])
    policy = _policy(draft, keys, bus_keys, digest)
    # Only now: the ledger's window follows from the whole policy.
    cross_checks.check_retention(policy, reader)
    if problems:
        return Loaded(None, _sorted(problems), _sorted(notes))
    return Loaded(policy, (), _sorted(notes))


def _is_folder(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except (OSError, ValueError):  # a name that the system does not take
        return False


def _sorted(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(
        # By a key: the other fields may be None, which Python does not compare with a text. The set
        # drops problems that two checks found.
        sorted(set(problems), key=lambda one: (one.file, one.line, one.column, one.what, str(one)))
    )


def _digest(documents: list[Document]) -> bytes:
    """SHA-256 over the names and contents of all files, in the order of their names."""
    whole = hashlib.sha256()
    for document in sorted(documents, key=lambda one: one.file):
        name = hashlib.sha256(document.file.encode()).digest()
        # Both as digests of one length, so that no byte of a name can count as one of a content.
        whole.update(name + hashlib.sha256(document.content).digest())
    return whole.digest()


def _policy(
    draft: PolicyDraft,
    keys: KeyFiles,
    bus_keys: frozenset[PublicKey],
    digest: bytes,
) -> Policy:
    issuers = keys.by_bot.get(RELAY, {})
    bots = {
        name: BotRule(
            name,
            # Not where nobody else may stand for the bot: what nobody needs, nobody can misuse.
            MappingProxyType(
                {**keys.by_bot.get(name, {}), **(issuers if grants.identities else {})}
            ),
            publish=tuple(dict.fromkeys((*EVERYONE, *grants.publish))),
            subscribe=tuple(dict.fromkeys(grants.subscribe)),
            roles=grants.roles,
            seals_directly=grants.seals_directly,
            certificate_names=grants.certificate_names,
            invitations=MappingProxyType(keys.invitations.get(name, {})),
            identities=grants.identities,
            links=MappingProxyType(chains(keys.by_bot.get(name, {}))),
        )
        for name, grants in draft.bots.items()
    }
    return Policy(
        bus=draft.bus,
        digest=digest,
        bus_keys=frozenset(key.raw for key in bus_keys),
        bots=MappingProxyType(bots),
        subjects=(*draft.subjects, *builtin_subjects()),
        limits=draft.limits,
        on_violation=MappingProxyType(draft.on_violation),
        default_disposition=draft.default,
        session_issuers=MappingProxyType(issuers),
    )
