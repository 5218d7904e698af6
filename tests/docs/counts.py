"""Count the limits of docs/style.md: ``python -m tests.docs.counts``, and ``--json`` for programs.

The figures are over the files that git knows. Others' texts that are kept here for the tests
(``upstream``) are left out. ``--places`` lists the places that count instead. ``--since REV`` looks
at the subjects of the commits after ``REV`` alone.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from tests.docs.places import ROOT

WIDTH: Final = 100
"""Most columns of a line, in code and in documents."""
NAME: Final = 60
"""Most characters of a test's name."""
SUBJECT: Final = 72
"""Most characters of a commit's subject."""
SETTINGS: Final = (".toml", ".yaml", ".yml")
"""The ends of the names of configurations."""
PRODUCT: Final = ("clients/", "broker/")
TESTS: Final = "tests/"
NOT_OURS: Final = "upstream"
"""A folder of this name holds texts that others wrote."""

Figures: TypeAlias = dict[str, dict[str, Any]]
"""Groups of figures by name, as ``--json`` writes them."""

WHAT: Final = re.compile(
    r"\bwhat\s+(?:an?|the|this|that|these|those|its?|i|you|he|she|we|they|are|were|have|had|did|do"
    r"|can|could|may|might|must|should|will|would|[a-z]+s)\b",
    re.IGNORECASE,
)
"""A clause that begins with "what": "what is", "what waits", "what it gives", "what the bus has".

The last alternative is a verb in the third person. A question counts too: it is rare in prose.
"""
WORD: Final = re.compile(r"[A-Za-z][A-Za-z'-]*")
FENCED: Final = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
"""A block of code in Markdown."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of a file: a docstring, a comment, a name."""

    line: int
    """Its first line in the file, from 1."""
    text: str


Pieces: TypeAlias = Callable[[str], Iterable[Text]]
"""Takes the text of a file apart."""


@dataclass(frozen=True, slots=True)
class Prose:
    """Words, and clauses with "what" among them."""

    words: int
    what: int

    @property
    def per_thousand(self) -> float:
        """Clauses in a thousand words."""
        return round(1000 * self.what / self.words, 1) if self.words else 0.0


@dataclass(frozen=True, slots=True)
class Lines:
    """How long the lines of some files are."""

    lines: int
    long: int
    longest: int
    longest_at: str
    """File and line number."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long some names are, in characters."""

    count: int
    long: int
    median: float
    longest: int


def count_prose(texts: Iterable[str]) -> Prose:
    """Count the clauses in ``texts``, across line ends."""
    joined = [" ".join(text.split()) for text in texts]
    words = sum(len(WORD.findall(text)) for text in joined)
    return Prose(words, sum(len(WHAT.findall(text)) for text in joined))


def prose_of(markdown: str) -> list[Text]:
    """A document without its blocks of code. They leave empty lines behind."""
    return [Text(1, FENCED.sub(lambda block: "\n" * block[0].count("\n"), markdown))]


def docstrings(source: str) -> Iterator[Text]:
    """Every text that is a statement: docstrings, and the texts below constants and fields."""
    statements = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr))
    constants = (one.value for one in statements if isinstance(one.value, ast.Constant))
    yield from (Text(one.lineno, one.value) for one in constants if isinstance(one.value, str))


def comment_lines(source: str) -> list[Text]:
    """The comments that have a line of their own."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = (one for one in tokens if one.type == tokenize.COMMENT)
    alone = (one for one in comments if one.line.lstrip().startswith("#"))
    return [Text(one.start[0], one.string.lstrip("# ")) for one in alone]


def names_of_tests(source: str) -> list[Text]:
    """The names of the tests in a module, methods included."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, functions))
    return [Text(node.lineno, node.name) for node in found if node.name.startswith("test_")]


def count_lines(files: Mapping[str, str], most: int = WIDTH) -> Lines:
    """Measure every line of ``files``, which are texts by name."""
    lengths = [
        (len(line), f"{name}:{number}")
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
    ]
    longest, at = max(lengths, default=(0, ""))
    return Lines(len(lengths), sum(length > most for length, _ in lengths), longest, at)


def texts(files: Mapping[str, str], pieces: Pieces) -> list[str]:
    """All pieces of ``files``."""
    return [one.text for text in files.values() for one in pieces(text)]


def clauses(files: Mapping[str, str], pieces: Pieces) -> Iterator[str]:
    """The clauses with "what" in the pieces of ``files``, as ``file:line: words``."""
    for name, text in files.items():
        for one in pieces(text):
            for found in WHAT.finditer(one.text):
                line = one.line + one.text.count("\n", 0, found.start())
                yield f"{name}:{line}: {' '.join(found[0].split())}"


def long_names(files: Mapping[str, str], most: int = NAME) -> list[str]:
    """The names of tests in ``files`` that are too long, as ``file:line: name``."""
    return [
        f"{name}:{one.line}: {one.text}"
        for name, text in files.items()
        for one in names_of_tests(text)
        if len(one.text) > most
    ]


def long_lines(files: Mapping[str, str], most: int = WIDTH) -> list[str]:
    """The places of the lines that are too long, as ``file:number``."""
    return [
        f"{name}:{number}"
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > most
    ]


def count_lengths(names: Sequence[str], most: int) -> Lengths:
    """Measure ``names``."""
    lengths = [len(name) for name in names] or [0]
    long = sum(length > most for length in lengths)
    return Lengths(len(names), long, statistics.median(lengths), max(lengths))


def share(part: int, whole: int) -> float:
    """Per cent."""
    return round(100 * part / whole, 1) if whole else 0.0


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def read(*endings: str) -> dict[str, str]:
    """The text of each of our files whose name has one of ``endings``, by its path."""
    names = [name for name in _git("ls-files", "-z").split("\0") if name.endswith(endings)]
    ours = [name for name in names if NOT_OURS not in name.split("/")]
    return {name: (ROOT / name).read_text() for name in ours if (ROOT / name).is_file()}


def _below(files: Mapping[str, str], *folders: str) -> dict[str, str]:
    return {name: text for name, text in files.items() if name.startswith(folders)}


def subjects(since: str | None = None) -> list[str]:
    """The first line of each commit, or of those after ``since``."""
    commits = [f"{since}..HEAD"] if since else []
    return _git("log", "--no-merges", "--format=%s", *commits).splitlines()


def places(since: str | None = None) -> Iterator[str]:
    """Each place that breaks a limit: the file and the line, or the subject of a commit."""
    documents, code = read(".md"), read(".py")
    yield from clauses(documents, prose_of)
    yield from clauses(_below(code, *PRODUCT, TESTS), docstrings)
    yield from clauses(_below(code, *PRODUCT), comment_lines)
    yield from long_lines(documents | code | read(*SETTINGS))
    yield from long_names(_below(code, TESTS))
    yield from (subject for subject in subjects(since) if len(subject) > SUBJECT)


def figures(since: str | None = None) -> Figures:
    """Everything that is counted, by name."""
    documents, code, settings = read(".md"), read(".py"), read(*SETTINGS)
    product, tests = _below(code, *PRODUCT), _below(code, TESTS)
    comments = texts(product, comment_lines)
    prose = {
        "documents": count_prose(texts(documents, prose_of)),
        "docstrings": count_prose(texts(product, docstrings)),
        "docstrings_of_tests": count_prose(texts(tests, docstrings)),
        "comments": count_prose(comments),
    }
    return {
        "prose": {n: {**asdict(one), "per_1000": one.per_thousand} for n, one in prose.items()},
        "lines": {
            "documents": asdict(count_lines(documents)),
            "product": asdict(count_lines(product)),
            "tests": asdict(count_lines(tests)),
            "all_code": asdict(count_lines(code)),
            "settings": asdict(count_lines(settings)),
        },
        "comment_lines": {"count": len(comments), "of": count_lines(product).lines},
        "test_names": asdict(count_lengths(texts(tests, names_of_tests), NAME)),
        "commit_subjects": asdict(count_lengths(subjects(since), SUBJECT)),
    }


def table(found: Figures) -> Iterator[str]:
    """The figures for people."""
    yield f'clauses with "what" in 1,000 words   {"words":>8}{"clauses":>9}{"per 1,000":>11}'
    for name, prose in found["prose"].items():
        yield f"  {_spaced(name):<35}{prose['words']:>8,}{prose['what']:>9,}{prose['per_1000']:>11}"
    yield f"lines over {WIDTH} columns{'':<15}{'lines':>8}{'over':>9}{'per cent':>11}  longest"
    for name, lines in found["lines"].items():
        over = share(lines["long"], lines["lines"])
        at = f"{lines['longest']} ({lines['longest_at']})"
        yield f"  {_spaced(name):<35}{lines['lines']:>8,}{lines['long']:>9,}{over:>11}  {at}"
    comments = found["comment_lines"]
    of = share(comments["count"], comments["of"])
    yield f"comment-only lines: {comments['count']:,} of {comments['of']:,}, {of} per cent"
    for name, most in (("test_names", NAME), ("commit_subjects", SUBJECT)):
        lengths = found[name]
        of = share(lengths["long"], lengths["count"])
        yield (
            f"{_spaced(name)} over {most} characters: {lengths['long']} of {lengths['count']:,}, "
            f"{of} per cent; median {lengths['median']:g}, longest {lengths['longest']}"
        )


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figures to stdout."""
    parser = argparse.ArgumentParser(prog="python -m tests.docs.counts", description="Count.")
    parser.add_argument("--json", action="store_true", help="one object instead of a table")
    parser.add_argument("--places", action="store_true", help="the places instead of the figures")
    parser.add_argument("--since", metavar="REV", help="only the commits after REV")
    given = parser.parse_args(arguments)
    found = list(places(given.since)) if given.places else figures(given.since)
    people = found if isinstance(found, list) else table(found)
    told = [json.dumps(found, indent=1)] if given.json else people
    sys.stdout.writelines(f"{line}\n" for line in told)


if __name__ == "__main__":
    main()
