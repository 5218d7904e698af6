"""A YAML or JSON file, read strictly, that knows the line and column of each value.

Nothing here raises for the content of a file. It returns a :class:`Problem` instead.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sealbus.file_hints import file_hint
from sealbus.text_file import other_encoding, without_mark
from sealbus_broker.escape import readable
from sealbus_broker.policy.json_tree import read_json_tree
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.tree import LineColumn, Node, Unreadable, refuse_misread
from sealbus_broker.policy.yaml_tree import read_yaml_tree

MAX_FILE_BYTES: Final = 1024 * 1024
"""Largest policy.

One with 10,000 bots has about 600 KiB. The limit keeps a wrong path from reading a disk image.
"""

README: Final = "README.md"

KeyPath = tuple[str | int, ...]
"""The keys and places that lead to a value: ``("limits", "retention")``."""


@dataclass(frozen=True, slots=True)
class Document:
    """One file: its bytes, its values, and their places."""

    file: str
    """Its path in the folder."""
    content: bytes
    value: Any
    """The content, without places."""
    _tree: Node
    """The content, with the place of each value."""

    def where(self, path: KeyPath) -> tuple[int, int]:
        """Line and column of the key or item at ``path``, or of the nearest place around it."""
        node = self._tree
        place = self._tree.place
        for step in path:
            value = node.value
            if isinstance(value, dict) and isinstance(step, str) and step in value:
                place = value[step].key
                node = value[step].node
            elif isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
                node = value[step]
                place = node.place
            else:
                break
        return place.line, place.column

    def problem(
        self,
        path: KeyPath,
        what: str,
        *,
        got: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> Problem:
        """A problem at ``path``."""
        line, column = self.where(path)
        return Problem(self.file, line, column, what, got, expected, hint)


def file_names(root: Path, folder: str) -> list[str]:
    """The files of ``folder`` that belong to the bus, in order. Raises ``OSError`` if it cannot be
    read.

    ``schemas/`` and ``keys/`` have one rule. Hidden files (the lock of an editor, files of macOS on
    a network drive), backups that end in ``~``, and a README.md are ignored. Every other file
    belongs to the bus, and needs a name of the right form.
    """
    names = (path.name for path in (root / folder).iterdir())
    return sorted(
        name
        for name in names
        if not name.startswith(".") and not name.endswith("~") and name != README
    )


def look_alikes(root: Path, wanted: Iterable[str]) -> list[Problem]:
    """The files of ``root`` that somebody, or another system, may confuse with one of ``wanted``.

    ``Policy.yaml`` is ``policy.yaml`` on a file system without case, and is ignored on one with
    case.
    """
    try:
        names = sorted(path.name for path in root.iterdir())
    except OSError:
        return []  # told where the first file is read
    known = {_folded(name): name for name in wanted}
    found = []
    for name in names:
        meant = known.get(_folded(name))
        if meant is not None and name != meant:
            what = f"is not read: its name is not {meant}"
            hint = f"rename it to {meant}, or to a very different name"
            found.append(Problem(readable(name, 100), 0, 0, what, hint=hint))
    return found


def _folded(name: str) -> str:
    """A name in the form in which people and forgiving file systems compare it."""
    # macOS normalises and ignores case. Windows also drops dots and blanks at the end.
    plain = unicodedata.normalize("NFKC", name).casefold().rstrip(". ")
    return f"{plain.removesuffix('.yml')}.yaml" if plain.endswith(".yml") else plain


def read_file(root: Path, file: str, most: int = MAX_FILE_BYTES) -> bytes | Problem:
    """The bytes of the regular file ``root / file``, or the problem that prevents reading it.

    A symbolic link may lead anywhere inside ``root``, because Kubernetes mounts a ConfigMap so. It
    may never lead out of it: a review of the folder would not see the target of the link, and a
    problem would quote it.
    """
    try:
        real = (root / file).resolve(strict=True)
        if not real.is_relative_to(root.resolve(strict=True)):
            return Problem(
                file,
                0,
                0,
                "leads out of the folder",
                hint="put the file itself here instead of a link",
            )
        # Opening a FIFO waits for its other end for ever. With O_NONBLOCK it does not wait.
        # The type of the opened file is then checked.
        if real.is_dir():
            return Problem(file, 0, 0, "is a folder, not a file", hint="move the folder away")
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as opened:  # noqa: PTH123  # it is a descriptor, and no path
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return Problem(file, 0, 0, "is not a regular file")
            # One byte more tells a file that is too large from one that just fits.
            content = opened.read(most + 1)
    except OSError as error:
        missing = file == "policy.yaml" and isinstance(error, FileNotFoundError)
        hint = "make a new bus with `sealbus init`" if missing else file_hint(error)
        return Problem(file, 0, 0, f"cannot be read: {error.strerror}", hint=hint)
    except RuntimeError:  # Python before 3.13
        what = "cannot be read: a loop of symbolic links"
        return Problem(file, 0, 0, what, hint="remove the link")
    if len(content) > most:
        return Problem(file, 0, 0, "is too large", expected=f"at most {most} bytes")
    return content


class KnownFiles:
    """The files of a folder as they were read last.

    Whoever reads the folder again takes apart only the files that have changed. Their content
    decides, and not their time.
    """

    def __init__(self) -> None:
        self._last: dict[str, Document] = {}
        self._now: dict[str, Document] = {}

    def begin(self) -> None:
        """Begin to read the folder once more. Files that were not in the last reading are
        forgotten."""
        self._last = self._now
        self._now = {}

    def find(self, file: str, content: bytes) -> Document | None:
        """Return the document of a file that has the same content as the last time."""
        found = self._last.get(file)
        return found if found is not None and found.content == content else None

    def keep(self, document: Document) -> None:
        """Remember a document for the next reading."""
        self._now[document.file] = document


def read_yaml(
    root: Path, file: str, most: int = MAX_FILE_BYTES, known: KnownFiles | None = None
) -> Document | Problem:
    """Read a YAML file of at most ``most`` bytes.

    It has one document, and no duplicate keys, anchors, aliases, merge keys or tags.
    """
    return _read(root, file, most, read_yaml_tree, known)


def read_json(
    root: Path, file: str, most: int = MAX_FILE_BYTES, known: KnownFiles | None = None
) -> Document | Problem:
    """Read a JSON file of at most ``most`` bytes, as in RFC 8259.

    It has no duplicate keys, no NaN, no number that is not exact, and no character that people and
    programs read differently.
    """
    return _read(root, file, most, _read_json_file, known)


def _read_json_file(file: str, text: str) -> Node:
    refuse_misread(
        file, text
    )  # JSON lets them stand in a text, where they can be written as \\u2028
    return read_json_tree(file, text)


def parse_yaml(file: str, content: bytes) -> Document | Problem:
    """Do as :func:`read_yaml`, with the content of a file."""
    return _take_apart(file, content, read_yaml_tree)


def _read(
    root: Path, file: str, most: int, reader: Callable[[str, str], Node], known: KnownFiles | None
) -> Document | Problem:
    content = read_file(root, file, most)
    if isinstance(content, Problem):
        return content
    found = None if known is None else known.find(file, content)
    document = _take_apart(file, content, reader) if found is None else found
    if known is not None and isinstance(document, Document):
        known.keep(document)
    return document


def _take_apart(
    file: str, content: bytes, reader: Callable[[str, str], Node]
) -> Document | Problem:
    if (encoding := other_encoding(content)) is not None:
        return Problem(file, 0, 0, f"is {encoding} text, not UTF-8", hint="save it as UTF-8")
    try:
        text = without_mark(content).decode()
    except UnicodeDecodeError as error:
        bare = without_mark(content)
        place = _place(bare, error.start)
        got = f"byte 0x{bare[error.start]:02x}"
        return Problem(
            file, place.line, place.column, "is not UTF-8", got=got, expected="UTF-8 text"
        )
    try:
        tree = reader(file, text)
    except Unreadable as error:
        return error.problem
    return Document(file, content, tree.plain(), tree)


def _place(content: bytes, at: int) -> LineColumn:
    line_at = content.rfind(b"\n", 0, at) + 1
    return LineColumn(
        content.count(b"\n", 0, at) + 1, len(content[line_at:at].decode(errors="replace")) + 1
    )
