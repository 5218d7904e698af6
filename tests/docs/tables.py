"""The parts of the documents that are made from the code. Neither can change without the other.

``python -m tests.docs.tables`` writes them again, and the tests only compare them. A part is
between ``<!-- name -->`` and ``<!-- /name -->``.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import click

from sealbus import credentials
from sealbus.own import OWN
from sealbus.protocol import limits
from sealbus.protocol.answer import ERROR_DOCUMENT
from sealbus.protocol.codec import pack_json
from sealbus.protocol.delivery import pack_delivery
from sealbus.protocol.envelope import Header, Parent, seal_envelopes
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.reason import Reason
from sealbus.protocol.seal import Context, Seal, seal, sign_connect
from sealbus.protocol.shelf_life import shelf_life_ms
from sealbus.protocol.stamp import Stamp, Verdict, seal_stamps
from sealbus.protocol.subjects import consumer_name, reply_subject
from sealbus_broker.cli.bulk import ROW
from sealbus_broker.cli.errors import EXIT_CODES
from sealbus_broker.cli.main import cli
from sealbus_broker.cli.options import all_commands, environment_names
from sealbus_broker.gate.judge import CHECKS
from sealbus_broker.gate.policy import Limits, Policy
from sealbus_broker.nats.config import NatsConfig, render
from sealbus_broker.nats.streams import consumer_configs, stream_configs
from sealbus_broker.policy import bus_file, json_tree, yaml_tree
from sealbus_broker.policy.builtin import builtin_subjects
from sealbus_broker.policy.document import MAX_FILE_BYTES
from sealbus_broker.policy.keys import MAX_KEY_FILE_BYTES
from sealbus_broker.policy.limits import RANGES
from sealbus_broker.policy.schema_files import MAX_SCHEMA_BYTES, MAX_SCHEMAS
from sealbus_broker.relay import secrets
from sealbus_broker.relay.quarantine import Record

DOCS: Final = Path(__file__).parents[2] / "docs"
EXAMPLES: Final = DOCS.parent / "examples"
BLOCK: Final = re.compile(
    r"^( *)<!-- ([a-z-]+) -->\n(.*?)^ *<!-- /\2 -->$", re.MULTILINE | re.DOTALL
)
COLUMNS: Final = 100
"""The longest line of a document."""
WIDTH: Final = 80
"""Hex digits in one line of an example: a line has room for the name before them."""


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def wrapped(text: str, mark: str = "") -> str:
    """A paragraph. With a ``mark``, such as ``- ``, an item of a list. Code stays in one line."""
    kept = re.sub(r"`[^`]+`", lambda code: code[0].replace(" ", "\0"), text)
    return textwrap.fill(
        f"{mark}{kept}",
        COLUMNS,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    ).replace("\0", " ")


def plain(docstring: str | None) -> str:
    """A docstring as one line of Markdown."""
    return " ".join((docstring or "").replace("``", "`").split())


def attribute_docs(source: str) -> dict[str, str]:
    """The string that follows each assignment, by the name that is assigned to."""
    body = ast.parse(source).body
    found: dict[str, str] = {}
    for one, after in itertools.pairwise(body):
        if (
            isinstance(one, ast.AnnAssign)
            and isinstance(one.target, ast.Name)
            and isinstance(after, ast.Expr)
        ):
            found[one.target.id] = plain(ast.literal_eval(after.value))
    return found


def checks() -> str:
    def items() -> Iterator[str]:
        for number, check in enumerate(CHECKS, 1):
            told = plain(check.__doc__)
            named = [name for name in re.findall(r"\*([a-z-]+)\*", told) if name in set(Reason)]
            told = re.sub(r"^\*[a-z-]+\*[:.] *", "", told)
            with_reasons = ", ".join(f"`{name}`" for name in named)
            yield wrapped(f"**{with_reasons}**. {told[0].upper()}{told[1:]}", f"{number}. ")

    return "\n".join(items())


def reasons() -> str:
    return table(
        ("reason", "meaning"), ((f"`{reason.value}`", reason.meaning) for reason in Reason)
    )


def fixed_limits() -> str:
    docs = attribute_docs(inspect.getsource(limits))
    return "\n".join(
        wrapped(f"**`{name}`** is {getattr(limits, name):,}, {told[0].lower()}{told[1:]}", "- ")
        for name, told in docs.items()
    )


def policy_limits() -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        given = Limits()
        for name, (least, most) in RANGES.items():
            time = hasattr(given, f"{name}_ms")
            written = _duration if time else _size if name.endswith("_bytes") else str
            default = getattr(given, f"{name}_ms" if time else name)
            yield f"`{name}`", *(f"`{written(value)}`" for value in (default, least, most))

    return table(("name", "default", "least", "most"), rows())


def policy_files() -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        yield "`policy.yaml`", "1", _size(MAX_FILE_BYTES), str(yaml_tree.MAX_DEPTH)
        yield (
            "`schemas/*.json`",
            f"{MAX_SCHEMAS:,}",
            _size(MAX_SCHEMA_BYTES),
            str(json_tree.MAX_DEPTH),
        )
        yield "`keys/*.yaml`", "one a bot", _size(MAX_KEY_FILE_BYTES), str(yaml_tree.MAX_DEPTH)
        yield f"`{bus_file.FILE}`", "1", _size(bus_file.MAX_BUS_FILE_BYTES), "-"
        yield "`credentials/*.toml`", "-", _size(credentials.MAX_FILE_BYTES), "-"
        yield "`.sealbus/relay.toml`", "1", _size(secrets.MAX_FILE_BYTES), "-"

    return table(("file", "how many", "largest", "deepest nesting"), rows())


def _scaled(value: int, units: Mapping[str, int]) -> str:
    return next(
        f"{value // size}{name}"
        for name, size in units.items()
        if value % size == 0 and size <= max(value, 1)
    )


def _duration(ms: int) -> str:
    return _scaled(ms, {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1})


def _size(size: int) -> str:
    return _scaled(size, {"TiB": 1024**4, "GiB": 1024**3, "MiB": 1024**2, "KiB": 1024, "B": 1})


def own_rates() -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for subject, declared in OWN.items():
            assert declared.rate is not None
            yield f"`{subject}`", f"{declared.rate.per_second:g} a second", str(declared.rate.burst)

    return table(("subject", "requests", "at once"), rows())


def contexts() -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for one in Context:
            shown = one.value.decode().replace(chr(0), r"\0")
            yield one.name.lower(), f"`{shown}`", f"`{one.value.hex(' ')}`"

    return table(("item", "context (8 bytes)", "hex"), rows())


def builtin() -> str:
    parts = []
    for rule in builtin_subjects():
        request = next(iter(rule.schemas.values()))
        if rule.reply is None:
            head = f"**`{rule.pattern}`**, sent by relays alone, into INGRESS:"
            parts.append(f"{head}\n\n{_json(request.document)}")
            continue
        assert isinstance(rule.reply.document, dict)
        answer = rule.reply.document
        head = f"**`{rule.pattern}`**, the request's and the answer's schema:"
        parts.append(f"{head}\n\n{_json(request.document)}\n\n{_json(answer)}")
    return "\n\n".join(parts)


def error() -> str:
    return _json(ERROR_DOCUMENT)


def _json(value: object) -> str:
    return _code(_folded(value), "json")


def _folded(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON with one line for each part that fits into one.

    ``before`` is the length of the text before the value in its line.
    """
    short = json.dumps(value)
    if indent + before + len(short) < COLUMNS or not isinstance(value, dict | list):
        return short
    inner = indent + 2
    pad = " " * inner
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(key)}: {_folded(one, inner, len(json.dumps(key)) + 2)}"
            for key, one in value.items()
        ]
        begin, end = "{", "}"
    else:
        begin, end = "[", "]"
        parts = [_folded(one, inner) for one in value]
        if all(isinstance(one, str) for one in value):
            lines = textwrap.wrap(", ".join(parts), COLUMNS - inner, break_on_hyphens=False)
            return f"{begin}\n" + "\n".join(pad + line for line in lines) + f"\n{' ' * indent}{end}"
    return f"{begin}\n{pad}" + f",\n{pad}".join(parts) + f"\n{' ' * indent}{end}"


def _code(text: str, language: str = "") -> str:
    return f"```{language}\n{text}\n```"


def program(name: str) -> str:
    """An example's code, without its docstring."""
    _, _, code = (EXAMPLES / name).read_text().partition('"""\n\n')
    return _code(code.rstrip("\n"), "python")


def _is_zero(value: object) -> bool:
    return value in (None, False, 0, -1, "", [])


def _policy() -> Policy:
    return Policy("shop", bytes(32), frozenset(), {}, ())


def streams() -> str:
    configs = stream_configs(_policy())
    parts = [
        _code(
            "\n".join(
                _folded({k: v for k, v in one.items() if not _is_zero(v)}) for one in configs
            ),
            "json",
        )
    ]
    off = sorted(
        {
            field
            for one in configs
            for field, value in one.items()
            if all(_is_zero(other.get(field)) for other in configs)
        }
    )
    names = ", ".join(f"`{field}`" for field in off)
    parts.append(wrapped(f"Off, absent or without limit in all of them: {names}."))
    return "\n\n".join(parts)


def consumers() -> str:
    first = consumer_configs()[0]
    return _code(
        _folded(
            {k: v for k, v in first.items() if not _is_zero(v)}
            | {"max_deliver": first["max_deliver"]}
        ),
        "json",
    )


def record() -> str:
    return table(
        ("field", "type"),
        (
            (f"`{field.name}`", str(field.type).replace("None", "null").replace("str", "text"))
            for field in fields(Record)
        ),
    )


def keys() -> tuple[SigningKey, SigningKey, SigningKey]:
    """The example's bot, bus and issuer."""
    kinds = (KeyKind.BOT, KeyKind.BUS, KeyKind.ISSUER)
    bot, bus, issuer = (
        SigningKey(bytes(range(at * 32, at * 32 + 32)), kind) for at, kind in enumerate(kinds)
    )
    return bot, bus, issuer


def nats_conf() -> str:
    bot, _, issuer = keys()
    given = NatsConfig(
        Path("/data"),
        bot.public,
        issuer.public,
    )
    return _code(render(given).rstrip("\n"))


def _lines(rows: list[tuple[str, bytes | str]], room: int = 16) -> str:
    """Names and values; long hex is folded below its name. ``room``: columns of the names."""
    out = []
    for name, value in rows:
        text = value.hex() if isinstance(value, bytes) else value
        size = WIDTH if isinstance(value, bytes) else max(len(text), 1)
        first, *others = (text[at : at + size] for at in range(0, len(text), size))
        out += [f"{name:<{room}} {first}", *(f"{'':<{room}} {more}" for more in others)]
    return _code("\n".join(out))


def _leaf(item: bytes) -> bytes:
    """Made from the document's description and not by the code of the bus."""
    return hashlib.sha256(b"\x00" + len(item).to_bytes(8, "big") + item).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def example_seal() -> str:
    bot, _, _ = keys()
    items = [b"a", b"b", b"c"]
    a, b, c = map(_leaf, items)
    root = _node(_node(a, b), c)
    seals = [Seal.decode(one) for one in seal(bot, Context.ENVELOPE, items)]
    assert {one.root(item) for one, item in zip(seals, items, strict=True)} == {root}
    rows: list[tuple[str, bytes | str]] = [
        ("key", bot.public.raw),
        ("leaf(a)", a),
        ("leaf(b)", b),
        ("leaf(c)", c),
        ("node(a,b)", _node(a, b)),
        ("root", root),
        ("signed", b"\x00sealbus/1\x00envelope" + bot.public.raw + root),
        ("signature", seals[0].signature),
    ]
    rows += [
        (f"sides, path {name}", one.encode()[96:]) for name, one in zip("abc", seals, strict=True)
    ]
    return _lines(rows)


def consumer() -> str:
    return _code(consumer_name("inventory", "orders.placed", "default"))


def accepting(envelope: bytes, header: Header, position: int | None, judged_at_ms: int) -> Stamp:
    """The example relay's acceptance."""
    digest = hashlib.sha256(envelope).digest()
    names = (header.bot, header.subject, header.nonce)
    stamp = Stamp(
        header.bus,
        digest,
        *names,
        Verdict.ACCEPTED,
        None,
        None,
        bytes(32),
        position,
        judged_at_ms,
        "relay-1",
    )
    return replace(
        stamp, store_by_ms=judged_at_ms + shelf_life_ms(live=position is None) + EXAMPLE_SKEW_MS
    )


EXAMPLE_SKEW_MS: Final = 2_000
"""The example policy's ``clock_skew``."""


def example_nonce(born_ms: int, start: int) -> bytes:
    """A nonce whose random bytes are ten numbers in order."""
    return born_ms.to_bytes(6) + bytes(range(start, start + 10))


def example_answer() -> str:
    """A request, and an answer with the request's stamp as its parent."""
    asker, bus, _ = keys()
    answerer = SigningKey(bytes(range(96, 128)), KeyKind.BOT)
    asked = Header(
        "shop",
        "order",
        "stock.check",
        example_nonce(1_764_000_001_000, 16),
        1_764_000_001_000,
        5_000,
    )
    (request,) = seal_envelopes(asker, [(asked, pack_json({"sku": "ABC-0001"}))])
    (stamped,) = seal_stamps(bus, [accepting(request, asked, None, 1_764_000_001_050)])
    parent = Parent(stamped).encode()
    subject = reply_subject("order", asked.nonce)
    answered = Header(
        "shop",
        "inventory",
        subject,
        example_nonce(1_764_000_001_100, 32),
        1_764_000_001_100,
        5_000,
        parent=parent,
    )
    payload = pack_json({"sku": "ABC-0001", "available": 7})
    (answer,) = seal_envelopes(answerer, [(answered, payload)])
    said = wrapped(
        'The bot `order` asks `{"sku": "ABC-0001"}` on the live subject `stock.check`. The random '
        "bytes of its nonce are `10 11 … 19`. The request is issued for the first time at "
        "1764000001000, for 5,000 ms. The relay accepts it at 1764000001050, without a position. "
        "The `clock_skew` of the relay's policy is 2,000 ms."
    )
    replied = wrapped(
        "The seed of the bot `inventory` is `60 61 … 7f`. It answers "
        '`{"sku": "ABC-0001", "available": 7}`. The random bytes of its nonce are `20 21 … 29`. '
        "The answer is issued for the first time at 1764000001100, for 5,000 ms."
    )
    return "\n\n".join(
        (
            said,
            _lines([("request", request), ("its stamp", stamped)]),
            replied,
            _lines(
                [("subject", subject), ("parent", parent), ("payload", payload), ("answer", answer)]
            ),
            wrapped(f"It is published on `call.inventory`, and delivered on `bus.{subject}`."),
        )
    )


def example() -> str:
    bot, bus, issuer = keys()
    payload = pack_json({"order_id": "ord-1", "quantity": 2})
    header = Header(
        "shop",
        "order",
        "orders.placed",
        example_nonce(1_764_000_000_000, 0),
        1_764_000_000_000,
        30_000,
    )
    (envelope,) = seal_envelopes(bot, [(header, payload)])
    digest = hashlib.sha256(envelope).digest()
    stamp = accepting(envelope, header, 7, 1_764_000_000_123)
    (sealed,) = seal_stamps(bus, [stamp])
    challenge, admission = "7XrCz0YqPq4CkA8", f"sealbus/1 order {bot.public.text}"
    signature = sign_connect(bot, challenge.encode(), admission.encode())
    said = wrapped(
        'The bot `order` publishes `{"order_id": "ord-1", "quantity": 2}` on `orders.placed`, on '
        "the bus `shop`. The random bytes of its nonce are `00 01 … 09`. The message is issued for "
        "the first time at 1764000000000, for 30,000 ms. It has no schema and no parent."
    )
    judged = wrapped(
        "The relay `relay-1` accepts it, from position 7, at 1764000000123. The digest of its "
        "policy is 32 zero bytes, and the policy's `clock_skew` is 2,000 ms."
    )
    names = [("bot", bot.public.text), ("bus", bus.public.text), ("issuer", issuer.public.text)]
    connecting: list[tuple[str, bytes | str]] = [
        ("challenge", challenge),
        ("auth_token", admission),
        ("sig", base64.b64encode(signature).decode()),
    ]
    sent: list[tuple[str, bytes | str]] = [
        ("header", header.encode()),
        ("payload", payload),
        ("envelope", envelope),
        ("digest", digest),
    ]
    stamped: list[tuple[str, bytes | str]] = [
        ("body", stamp.encode()),
        ("sealed stamp", sealed),
        ("delivery", pack_delivery(envelope, sealed)),
    ]
    return "\n\n".join(
        (
            "Keys:",
            _lines([*names]),
            "Connecting:",
            _lines(connecting, room=11),
            said,
            _lines(sent),
            judged,
            _lines(stamped),
        )
    )


def exit_codes() -> str:
    return "\n".join(wrapped(f"**{code}**: {told}", "- ") for code, told in EXIT_CODES.items())


def pub_row() -> str:
    return "\n".join(wrapped(f"**`{name}`**: {told}", "- ") for name, told in ROW.items())


def commands() -> str:
    """Each command: its usage, its help text, and its options with their environment variables."""
    parts = []
    for words, command in sorted(all_commands(cli)):
        context = click.Context(command, info_name=" ".join(("sealbus", *words)))
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts.append(f"### sealbus {' '.join(words)}")
        parts.append(_code(usage, "text"))
        parts.extend(_paragraphs(command.help or ""))
        options = [
            _option(context, words, option)
            for option in command.params
            if isinstance(option, click.Option) and not option.hidden
        ]
        parts.append("\n".join(options))
    return "\n\n".join(parts)


def _paragraphs(told: str) -> list[str]:
    return [wrapped(" ".join(part.split())) for part in inspect.cleandoc(told).split("\n\n")]


def _option(context: click.Context, words: tuple[str, ...], option: click.Option) -> str:
    """An item of a list: the option's spelling, its environment variables, and its meaning."""
    record = option.get_help_record(context)
    assert record is not None
    spelled, told = record
    meaning = " ".join(told.split())
    if isinstance(option.type, click.Choice) and len(spelled) > COLUMNS // 2:
        spelled = f"{', '.join(option.opts)} {(option.name or '').upper()}"
        meaning += f" One of {', '.join(f'`{choice}`' for choice in option.type.choices)}."
    names = " or ".join(f"`{name}`" for name in environment_names(words, option))
    return wrapped(f"**`{spelled}`** ({names}): {meaning}", "- ")


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "commands": commands,
    "exit-codes": exit_codes,
    "pub-row": pub_row,
    "builtin": builtin,
    "error": error,
    "checks": checks,
    "consumer": consumer,
    "consumers": consumers,
    "contexts": contexts,
    "own-rates": own_rates,
    "example": example,
    "example-answer": example_answer,
    "example-seal": example_seal,
    "limits": fixed_limits,
    "nats-conf": nats_conf,
    "policy-limits": policy_limits,
    "policy-files": policy_files,
    "reasons": reasons,
    "record": record,
    "streams": streams,
    "publish": lambda: program("publish.py"),
    "subscribe": lambda: program("subscribe.py"),
    "request-reply": lambda: program("request_reply.py"),
    "tested-bot": lambda: program("testing/listener.py"),
    "bot-tests": lambda: program("testing/test_listener.py").replace("examples.testing.", ""),
}


def made(text: str) -> str:
    """``text`` with every part made again."""

    def replace(match: re.Match[str]) -> str:
        indent, name = match[1], match[2]
        lines = PARTS[name]().split("\n")
        inside = "".join(f"{indent}{line}\n" if line else "\n" for line in lines)
        return f"{indent}<!-- {name} -->\n{inside}{indent}<!-- /{name} -->"

    return BLOCK.sub(replace, text)


if __name__ == "__main__":
    for document in DOCS.rglob("*.md"):
        document.write_text(made(document.read_text()))
