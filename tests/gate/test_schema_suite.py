"""The required part of the JSON-Schema-Test-Suite for Draft 2020-12.

It runs through our validator and through ``jsonschema``. Every difference from the suite's
expectation, and from ``jsonschema``, is in a table with its reason. A difference that is not listed
fails, and so does a listed one that is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import jsonschema
import pytest
import referencing

# It ships no types.
from jsonschema_specifications import REGISTRY as METASCHEMAS  # type: ignore[import-untyped]
from referencing.jsonschema import DRAFT202012

from sealbus_broker.gate.schemas import Registry, Schema, closed_registry
from tests.vectors import public

SUITE: Final = public.FOLDER / "json-schema-test-suite"
REQUIRED: Final = 1299
"""The number of cases in this repository's copy.

A suite that is read only in part proves nothing.
"""

FORMATS: Final = (
    "date", "date-time", "duration", "email", "hostname", "idn-email", "idn-hostname", "ipv4",
    "ipv6", "iri", "iri-reference", "json-pointer", "regex", "relative-json-pointer", "time", "uri",
    "uri-reference", "uri-template", "uuid",
)  # fmt: skip

Case = tuple[str, str, str]

OURS_DIFFER: Final[dict[Case, str]] = {
    (
        "format",
        f"{name} format",
        f"invalid {name} string is only an annotation by default",
    ): "the gate asserts formats: a bus that lets any text through as a date-time checks nothing"
    for name in FORMATS
}
"""Differences between our answer and the suite."""

JSONSCHEMA_DIFFERS: Final[dict[Case, str]] = {
    **{
        (
            "pattern",
            "pattern with Unicode property escape requires unicode mode",
            test,
        ): "Python's re has no \\p{L}, and our validator has it"
        for test in ("ASCII letters match", "Non-ASCII letters match", "Digits do not match")
    },
    **{
        (
            "patternProperties",
            "patternProperties with Unicode property escape",
            test,
        ): "Python's re has no \\p{L}, and our validator has it"
        for test in (
            "Unicode letter property name matches",
            "Non-letter property name does not match pattern",
        )
    },
    (
        "vocabulary",
        "schema that uses custom metaschema with with no validation vocabulary",
        "no validation: invalid number, but it still validates",
    ): (
        "jsonschema applies every vocabulary; jsonschema-rs those of the metaschema "
        "(the loader lets no file name another one)"
    ),
}
"""Differences between ``jsonschema`` and the suite. We agree with the suite."""


def cases() -> Iterator[tuple[Case, Any, Any, bool]]:
    for file in sorted((SUITE / "tests" / "draft2020-12").glob("*.json")):
        for group in json.loads(file.read_text()):
            for test in group["tests"]:
                yield (
                    (file.stem, group["description"], test["description"]),
                    group["schema"],
                    test["data"],
                    test["valid"],
                )


@cache
def remotes() -> dict[str, Any]:
    """The documents that the suite expects at ``http://localhost:1234``.

    The closed registry has them here.
    """
    root = SUITE / "remotes"
    return {
        f"http://localhost:1234/{file.relative_to(root).as_posix()}": json.loads(file.read_text())
        for file in root.rglob("*.json")
    }


@cache
def registry() -> Registry:
    return closed_registry(remotes())


def ours(schema: Any, data: Any) -> bool | str:
    return Schema.compile("suite.v1", schema, registry()).is_valid(data)


def theirs(schema: Any, data: Any) -> bool | str:
    known: Any = METASCHEMAS.with_resources(
        (uri, referencing.Resource.from_contents(document, default_specification=DRAFT202012))
        for uri, document in remotes().items()
    )
    try:
        return jsonschema.Draft202012Validator(schema, registry=known).is_valid(data)
    except Exception as error:  # noqa: BLE001  # any error is a difference
        return type(error).__name__


@pytest.mark.timeout(600)
def test_every_difference_is_listed_and_explained() -> None:
    number, we_differ, they_differ, apart = 0, set(), set(), set()
    for case, schema, data, valid in cases():
        number += 1
        our, their = ours(schema, data), theirs(schema, data)
        if our != valid:
            we_differ.add(case)
        if their != valid:
            they_differ.add(case)
        if our != their:
            apart.add(case)
    assert number == REQUIRED
    assert we_differ == set(OURS_DIFFER)
    assert they_differ == set(JSONSCHEMA_DIFFERS)
    assert apart == set(OURS_DIFFER) | set(JSONSCHEMA_DIFFERS)
