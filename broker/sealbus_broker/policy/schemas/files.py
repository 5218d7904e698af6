"""The folder's JSON Schemas: ``schemas/<subject>.v<N>.json``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import referencing
from jsonschema_specifications import REGISTRY as METASCHEMAS  # type: ignore[import-untyped]
from referencing.jsonschema import DRAFT202012

from sealbus.errors import InvalidInput
from sealbus.protocol.subjects import RELAY, split_schema
from sealbus_broker.escape import readable
from sealbus_broker.gate.schemas import BASE, Explaining, Schema, closed_registry
from sealbus_broker.policy.document import Document, KeyPath, KnownFiles, file_names, read_json
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.schemas.budget import Measured, measure
from sealbus_broker.policy.schemas.faults import faults, metaschema_faults, walk
from sealbus_broker.policy.schemas.words import schema_notes
from sealbus_broker.policy.schemas.work import Work
from sealbus_broker.policy.uris import normal_uri

FOLDER: Final = "schemas"

MAX_SCHEMAS: Final = 10_000
"""Most schemas of one bus. Each is compiled and kept in memory."""

MAX_SCHEMA_BYTES: Final = 256 * 1024
"""Largest schema: half of the largest envelope, and more than anybody reviews."""


@dataclass(frozen=True, slots=True)
class Schemas:
    """The content of the folder."""

    compiled: dict[str, Schema]
    """By name. It is empty if any file has a problem, because each may refer to every other."""
    measured: dict[str, Measured]
    """By name: the cost of each schema without a problem."""
    present: frozenset[str]
    """The names of all files, usable or not."""
    documents: list[Document]
    """The files that were read."""
    notes: list[Problem]
    """Notes, which stop nothing."""


def read_schemas(root: Path, problems: list[Problem], known: KnownFiles | None = None) -> Schemas:
    """Read every schema of the folder, and add their problems to ``problems``."""
    before = len(problems)
    try:
        files = file_names(root, FOLDER)
    except OSError as error:
        problems.append(Problem(FOLDER, 0, 0, f"cannot be read: {error.strerror}"))
        return Schemas({}, {}, frozenset(), [], [])
    if len(files) > MAX_SCHEMAS:
        problems.append(
            Problem(
                FOLDER,
                0,
                0,
                "has too many schemas",
                got=str(len(files)),
                expected=f"at most {MAX_SCHEMAS}",
            )
        )
        return Schemas({}, {}, frozenset(), [], [])
    documents: dict[str, Document] = {}
    for file in files:
        document = _read(root, file, known)
        found = [document] if isinstance(document, Problem) else metaschema_faults(document)
        if isinstance(document, Document) and not found:
            documents[file.removesuffix(".json")] = document
        problems += found
    _check_identities(documents, problems)
    # Only where no file has a problem: each may refer to every other.
    measured = _check_insides(documents, problems) if len(problems) == before else {}
    compiled = _compile(documents, measured, problems) if len(problems) == before else {}
    sound = documents.values() if compiled else ()
    notes = [note for document in sound for note in schema_notes(document, walk(document.value))]
    present = frozenset(file.removesuffix(".json") for file in files)
    return Schemas(compiled, measured, present, list(documents.values()), notes)


def _read(root: Path, file: str, known: KnownFiles | None) -> Document | Problem:
    if file.startswith(f"{RELAY}."):
        what = "the name is the bus's own"
        hint = "the bus has schemas of its own, such as sealbus.error.v1"
        return Problem(f"{FOLDER}/{readable(file, 80)}", 0, 0, what, hint=hint)
    try:
        split_schema(file.removesuffix(".json"))
        if file.endswith(".json"):
            return read_json(root, f"{FOLDER}/{file}", MAX_SCHEMA_BYTES, known)
    except InvalidInput:
        pass
    what = "the file's name is not a schema's name"
    expected = "a subject and a version, like orders.placed.v1.json"
    return Problem(f"{FOLDER}/{readable(file, 80)}", 0, 0, what, expected=expected)


def _check_identities(documents: dict[str, Document], problems: list[Problem]) -> None:
    """Refuse two schemas with one ``$id``, however it is written.

    A reference would reach one of them by chance.
    """
    owners: dict[str, tuple[str, KeyPath]] = dict.fromkeys(_standard(), (BASE, ()))
    owners |= {f"{BASE}{name}.json": (document.file, ()) for name, document in documents.items()}
    for name, document in documents.items():
        for path, uri in _identities(f"{BASE}{name}.json", document.value):
            file, _ = owner = owners.setdefault(normal_uri(uri), (document.file, path))
            if owner != (document.file, path):
                at = (*path, "$id")
                theirs = "the standard" if file == BASE else file
                what = (
                    "the $id is used twice in this file"
                    if file == document.file
                    else "the $id is another file's too"
                )
                problems.append(
                    document.problem(at, what, got=readable(uri, 80), hint=f"it stands in {theirs}")
                )

    for name, document in documents.items():
        _check_anchors(document, f"{BASE}{name}.json", problems)


@cache
def _standard() -> frozenset[str]:
    """The URIs of the standard's own schemas. They never change, and each reading needs them."""
    return frozenset(normal_uri(uri) for uri in METASCHEMAS)


def _check_anchors(document: Document, base: str, problems: list[Problem]) -> None:
    """Refuse two equal anchors under one ``$id``, for the same reason."""
    owners: dict[tuple[str, str], KeyPath] = {}
    for path, inner, around in _with_base(base, document.value):
        names = {
            keyword: inner[keyword] for keyword in ("$anchor", "$dynamicAnchor") if keyword in inner
        }
        for keyword, name in names.items():
            if (
                isinstance(name, str)
                and owners.setdefault((normal_uri(around), name), path) != path
            ):
                what = "the anchor is used twice in this schema"
                hint = "a reference would reach one of them by chance"
                problems.append(
                    document.problem((*path, keyword), what, got=readable(name, 80), hint=hint)
                )


def _identities(base: str, schema: Any) -> Iterator[tuple[KeyPath, str]]:
    """Every ``$id`` in a schema, resolved, with the path of the schema that has it."""
    return (
        (path, around)
        for path, inner, around in _with_base(base, schema)
        if isinstance(inner.get("$id"), str)
    )


def _with_base(base: str, schema: Any) -> Iterator[tuple[KeyPath, dict[str, Any], str]]:
    """Every schema inside a schema, with its path and its base URI."""
    bases: dict[KeyPath, str] = {(): base}
    for path, inner in walk(schema):
        # The base of a schema is that of the nearest one around it that has an $id.
        around = next(
            bases[path[:size]] for size in range(len(path), -1, -1) if path[:size] in bases
        )
        if isinstance(identity := inner.get("$id"), str):
            try:
                around = bases[path] = urljoin(around, identity)
            except ValueError:  # told elsewhere, as no URI
                continue
        yield path, inner, around


def _check_insides(documents: dict[str, Document], problems: list[Problem]) -> dict[str, Measured]:
    """The largest cost of each schema, by name. Problems inside are added to ``problems``."""
    # This registry fetches nothing: a reference elsewhere does not resolve, and is a problem.
    registry: Any = METASCHEMAS
    for name, document in documents.items():
        resource = DRAFT202012.create_resource(document.value)
        registry = registry.with_resource(f"{BASE}{name}.json", resource)
        if (identity := resource.id()) is not None:
            registry = registry.with_resource(identity, resource)
    # All at once. Otherwise each reference to an anchor or to an inner $id looks at every schema.
    # An $id that cannot be used is told below, with its file.
    with contextlib.suppress(ValueError, referencing.exceptions.Unresolvable, RecursionError):
        registry = registry.crawl()
    before = len(problems)
    resolvers: dict[str, Any] = {}
    for name, document in documents.items():
        try:
            resolvers[name] = registry.resolver(
                DRAFT202012.create_resource(document.value).id() or f"{BASE}{name}.json"
            )
            problems += faults(document, resolvers[name])
        except (ValueError, referencing.exceptions.Unresolvable, RecursionError):
            problems.append(
                document.problem(("$id",), "an $id inside is not a URI that can be used")
            )
    if len(problems) > before:
        return {}
    return {
        name: measure(document, resolvers[name], problems) for name, document in documents.items()
    }


def _compile(
    documents: dict[str, Document], measured: dict[str, Measured], problems: list[Problem]
) -> dict[str, Schema]:
    try:
        registry = closed_registry(
            {f"{BASE}{name}.json": document.value for name, document in documents.items()}
        )
    except InvalidInput as error:
        problems.append(Problem(FOLDER, 0, 0, error.what, hint=error.hint))
        return {}
    found: dict[str, Schema] = {}
    for name, document in documents.items():
        try:
            found[name] = Schema.compile(
                name, document.value, registry, _explaining(measured[name].work)
            )
        except InvalidInput as error:
            problems.append(document.problem((), error.what, hint=error.hint))
    return found


def _explaining(found: Work) -> Explaining:
    return Explaining(found.errors_per_value, found.unguarded_per_byte, found.alternatives)
