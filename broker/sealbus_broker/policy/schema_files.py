"""The folder's JSON Schemas: ``schemas/<subject>.v<N>.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import referencing
from jsonschema_specifications import REGISTRY as METASCHEMAS  # type: ignore[import-untyped]  # it ships no types
from referencing.jsonschema import DRAFT202012

from sealbus.errors import InvalidInput
from sealbus.subjects import is_subject
from sealbus_broker.gate.schemas import BASE, Schema, closed_registry, split_name
from sealbus_broker.policy.document import Document, read_json
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.schema_faults import faults, metaschema_faults, walk
from sealbus_broker.policy.schema_growth import TooMany, doubling
from sealbus_broker.printable import printable

FOLDER: Final = "schemas"

MAX_SCHEMAS: Final = 10_000
"""Schemas of one bus; each is compiled and kept in memory."""

MAX_SCHEMA_BYTES: Final = 256 * 1024
"""One schema: half of the largest envelope, and more than anybody reviews."""


@dataclass(frozen=True, slots=True)
class Schemas:
    """What the folder gave."""

    compiled: dict[str, Schema]
    """By name; empty if any file has a problem, since each may refer to every other."""
    present: frozenset[str]
    """The names of all files, usable or not."""
    documents: list[Document]
    """The files that were read."""


def read_schemas(root: Path, problems: list[Problem]) -> Schemas:
    """Every schema of the folder; what is wrong with it is added to ``problems``."""
    before = len(problems)
    try:
        files = sorted(path.name for path in (root / FOLDER).iterdir() if path.name.endswith(".json"))
    except OSError as error:
        problems.append(Problem(FOLDER, 0, 0, f"cannot be read: {error.strerror}"))
        return Schemas({}, frozenset(), [])
    if len(files) > MAX_SCHEMAS:
        problems.append(
            Problem(FOLDER, 0, 0, "has too many schemas", got=str(len(files)), expected=f"at most {MAX_SCHEMAS}")
        )
        return Schemas({}, frozenset(), [])
    documents: dict[str, Document] = {}
    for file in files:
        document = _read(root, file)
        found = [document] if isinstance(document, Problem) else metaschema_faults(document)
        if isinstance(document, Document) and not found:
            documents[file.removesuffix(".json")] = document
        problems += found
    _check_identities(documents, problems)
    if len(problems) == before:
        problems += _check_insides(documents)
    compiled = _compile(documents, problems) if len(problems) == before else {}
    return Schemas(compiled, frozenset(file.removesuffix(".json") for file in files), list(documents.values()))


def _read(root: Path, file: str) -> Document | Problem:
    try:
        identity, _ = split_name(file.removesuffix(".json"))
        if is_subject(identity):
            return read_json(root, f"{FOLDER}/{file}", MAX_SCHEMA_BYTES)
    except InvalidInput:
        pass
    what, expected = "the file's name is not a schema's name", "a subject and a version, like orders.placed.v1.json"
    return Problem(f"{FOLDER}/{printable(file)}", 0, 0, what, expected=expected)


def _check_identities(documents: dict[str, Document], problems: list[Problem]) -> None:
    """No two files may answer to one ``$id``: which of them a reference reaches would be chance."""
    owners: dict[str, str] = {f"{BASE}{name}.json": document.file for name, document in documents.items()}
    for document in documents.values():
        identity = document.value.get("$id") if isinstance(document.value, dict) else None
        if identity is None:
            continue
        owner = owners.setdefault(identity.rstrip("#"), document.file)
        if owner != document.file:
            what = "the $id is another file's too"
            problems.append(document.problem(("$id",), what, got=printable(identity), hint=f"it stands in {owner}"))


def _check_insides(documents: dict[str, Document]) -> list[Problem]:
    registry: Any = METASCHEMAS
    for name, document in documents.items():
        resource = DRAFT202012.create_resource(document.value)
        registry = registry.with_resource(f"{BASE}{name}.json", resource)
        if (identity := resource.id()) is not None:
            registry = registry.with_resource(identity, resource)
    found: list[Problem] = []
    resolvers: dict[str, Any] = {}
    for name, document in documents.items():
        try:
            resolvers[name] = registry.resolver(
                DRAFT202012.create_resource(document.value).id() or f"{BASE}{name}.json"
            )
            found += faults(document, resolvers[name])
        except (ValueError, referencing.exceptions.Unresolvable, RecursionError):
            found.append(document.problem(("$id",), "an $id inside is not a URI that can be used"))
    if not found:
        found = [problem for name, document in documents.items() for problem in _growth(document, resolvers[name])]
    return found


def _growth(document: Document, resolver: Any) -> list[Problem]:
    try:
        state = doubling(document.value, resolver)
    except TooMany as error:
        return [
            document.problem((), f"the schema has {error}", hint="name fewer alternatives, or refer to fewer schemas")
        ]
    if state is None:
        return []
    place = next((path for path, schema in walk(document.value) if id(schema) == state), ())
    what = "the schema comes back to itself in two ways for the same place, so the work doubles with each level of a payload"
    hint = "put the property or item that recurs next to anyOf/oneOf/allOf/if instead of into several of their branches"
    return [document.problem(place, what, hint=hint)]


def _compile(documents: dict[str, Document], problems: list[Problem]) -> dict[str, Schema]:
    try:
        registry = closed_registry({f"{BASE}{name}.json": document.value for name, document in documents.items()})
    except InvalidInput as error:
        problems.append(Problem(FOLDER, 0, 0, error.what, hint=error.hint))
        return {}
    found: dict[str, Schema] = {}
    for name, document in documents.items():
        try:
            found[name] = Schema.compile(name, document.value, registry)
        except InvalidInput as error:
            problems.append(document.problem((), error.what, hint=error.hint))
    return found
