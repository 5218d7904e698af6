"""The folder's JSON Schemas: ``schemas/<subject>.v<N>.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import jsonschema

from sealbus.errors import InvalidInput
from sealbus.subjects import is_subject
from sealbus_broker.gate.schemas import BASE, Schema, closed_registry, split_name
from sealbus_broker.policy.document import Document, Path_, read_json
from sealbus_broker.policy.problems import Problem
from sealbus_broker.printable import printable

FOLDER: Final = "schemas"
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

MAX_SCHEMAS: Final = 10_000
"""Schemas of one bus; each is compiled and kept in memory."""


def read_schemas(root: Path, problems: list[Problem]) -> tuple[dict[str, Schema], list[Document]]:
    """Every schema of the folder by name, and the files that were read."""
    documents: dict[str, Document] = {}
    try:
        names = sorted(path.name for path in (root / FOLDER).iterdir() if path.name.endswith(".json"))
    except OSError as error:
        problems.append(Problem(FOLDER, 0, 0, f"cannot be read: {error.strerror}"))
        return {}, []
    if len(names) > MAX_SCHEMAS:
        problems.append(
            Problem(FOLDER, 0, 0, "has too many schemas", got=str(len(names)), expected=f"at most {MAX_SCHEMAS}")
        )
        return {}, []
    for file in names:
        name = file.removesuffix(".json")
        try:
            identity, _ = split_name(name)
            if not is_subject(identity):
                raise InvalidInput("")
        except InvalidInput:
            what, expected = (
                "the file's name is not a schema's name",
                "a subject and a version, like orders.placed.v1.json",
            )
            problems.append(Problem(f"{FOLDER}/{printable(file)}", 0, 0, what, expected=expected))
            continue
        document = read_json(root, f"{FOLDER}/{file}")
        if isinstance(document, Problem):
            problems.append(document)
        elif (trouble := _check(document)) is not None:
            problems.append(trouble)
        else:
            documents[name] = document
    return _compile(documents, problems), list(documents.values())


def _check(document: Document) -> Problem | None:
    """What makes a document no Draft 2020-12 schema, with its place."""
    value = document.value
    if not isinstance(value, dict | bool):
        return document.problem((), "is not a schema", expected="an object, true or false")
    if isinstance(value, dict) and value.get("$schema", _DRAFT) != _DRAFT:
        return document.problem(
            ("$schema",), "is of another draft", got=printable(repr(value["$schema"])), expected=_DRAFT
        )
    errors = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA).iter_errors(value)
    found = jsonschema.exceptions.best_match(errors)
    if found is None:
        return None
    path: Path_ = tuple(found.absolute_path)
    place = "/".join(str(step) for step in path) or "(root)"
    what = f"is not a Draft 2020-12 schema at {printable(place)}: {found.validator}"
    return document.problem(
        path, what, got=printable(repr(found.instance)), expected=printable(repr(found.validator_value), 120)
    )


def _compile(documents: dict[str, Document], problems: list[Problem]) -> dict[str, Schema]:
    values: dict[str, Any] = {f"{BASE}{name}.json": document.value for name, document in documents.items()}
    try:
        registry = closed_registry(values)
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
