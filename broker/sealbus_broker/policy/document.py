"""A YAML or JSON file, read strictly, that knows the line and column of everything in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.tokens import AliasToken, AnchorToken, TagToken

from sealbus_broker.policy.problems import Problem
from sealbus_broker.printable import printable

MAX_FILE_BYTES: Final = 1024 * 1024
"""A policy of 10,000 bots is about 600 KiB; the cap keeps a wrong path from reading a disk image."""

MAX_DEPTH: Final = 64
"""Deepest nesting in a file: schemas stay far below it, and every reader survives it."""

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """One file: its bytes, what it says, and where it says it."""

    file: str
    content: bytes
    value: Any
    _marked: Any
    """The same value as ruamel reads it, which remembers lines and columns; ``None`` if it could not."""

    def where(self, path: Path_) -> tuple[int, int]:
        """Line and column of the key or item at ``path``, or of the nearest place around it that is known."""
        node, place = self._marked, (1, 1)
        for step in path:
            marks = getattr(getattr(node, "lc", None), "data", None) or {}
            mark = marks.get(step)
            if mark is None:
                break
            place = (mark[0] + 1, mark[1] + 1)
            node = node[step]
        return place

    def problem(
        self, path: Path_, what: str, *, got: str | None = None, expected: str | None = None, hint: str | None = None
    ) -> Problem:
        """A problem at ``path``."""
        line, column = self.where(path)
        return Problem(self.file, line, column, what, got, expected, hint)


def read_file(root: Path, file: str) -> bytes | Problem:
    """The bytes of ``root / file``, or why they cannot be had."""
    try:
        with (root / file).open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        hint = "make a new bus with `sealbus init`" if file == "policy.yaml" else None
        return Problem(file, 0, 0, f"cannot be read: {error.strerror}", hint=hint)
    if len(content) > MAX_FILE_BYTES:
        return Problem(file, 0, 0, "is too large", expected=f"at most {MAX_FILE_BYTES} bytes")
    return content


def read_yaml(root: Path, file: str) -> Document | Problem:
    """Read a YAML file: one document, no duplicate keys, no anchors, aliases or tags."""
    content = read_file(root, file)
    if isinstance(content, Problem):
        return content
    text = _decode(file, content)
    if isinstance(text, Problem):
        return text
    marked = _load_marked(file, text)
    if isinstance(marked, Problem):
        return marked
    return Document(file, content, _plain(marked), marked)


def read_json(root: Path, file: str) -> Document | Problem:
    """Read a JSON file: RFC 8259, no duplicate keys, no NaN."""
    content = read_file(root, file)
    if isinstance(content, Problem):
        return content
    text = _decode(file, content)
    if isinstance(text, Problem):
        return text
    marked = _load_marked(file, text)  # JSON is YAML, so this finds the places; what it means, json says
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constants)
    except json.JSONDecodeError as error:
        return Problem(file, error.lineno, error.colno, f"is not JSON: {error.msg}")
    except (ValueError, RecursionError) as error:
        if isinstance(marked, Problem):
            return marked
        return Problem(file, 1, 1, f"is not JSON: {printable(str(error), 200)}")
    return Document(file, content, value, None if isinstance(marked, Problem) else marked)


def _decode(file: str, content: bytes) -> str | Problem:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        return Problem(
            file, line, column, "is not UTF-8", got=f"byte 0x{content[error.start]:02x}", expected="UTF-8 text"
        )


def _load_marked(file: str, text: str) -> Any:
    try:
        depth = 0
        for token in YAML(typ="rt", pure=True).scan(StringIO(text)):
            name = type(token).__name__
            depth += name.endswith("StartToken") - (name.endswith("EndToken") and name != "DocumentEndToken")
            if depth > MAX_DEPTH:
                raise RecursionError
            if isinstance(token, AliasToken | AnchorToken | TagToken):
                mark = token.start_mark
                what = "anchors, aliases and tags are not used here"
                return Problem(file, mark.line + 1, mark.column + 1, what, hint="write the value out")
        reader = YAML(typ="rt", pure=True)
        reader.version = (1, 2)  # in which `no` is a text
        return reader.load(text)
    except RecursionError:
        return Problem(file, 1, 1, f"is nested deeper than {MAX_DEPTH}")
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = str(error.problem or error.context or "cannot be parsed").split("\n", 1)[0]
        return Problem(file, line, column, f"is not YAML: {printable(what, 200)}")
    except (YAMLError, ValueError, KeyError, IndexError, AttributeError, TypeError, AssertionError) as error:
        # ruamel has bare exceptions for some broken inputs; a file is never a reason for a traceback.
        return Problem(file, 1, 1, f"is not YAML: {printable(str(error).split(chr(10), 1)[0], 200)}")


def _plain(value: Any) -> Any:
    """ruamel's values as plain ones. Times stay what they are: :mod:`keys` reads them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool) or value is None:
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
