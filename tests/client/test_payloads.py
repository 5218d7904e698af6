"""Typed payloads: the encoding of each type, the place of a problem, and the way back."""

from __future__ import annotations

import enum
import math
import typing
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import GenericAlias, MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple
from uuid import UUID

import attrs
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.errors import InvalidInput, Malformed
from sealbus.payloads import pack_payload
from sealbus.protocol.codec import pack_json, unpack_json
from sealbus.protocol.limits import MAX_DEPTH
from sealbus.typed import read

ID = UUID("F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6")
NOON = datetime(2026, 11, 26, 12, 0, 0, 500_000, tzinfo=timezone(timedelta(hours=2)))


EAST = timezone(timedelta(hours=14))
WEST = timezone(timedelta(hours=-12))


class Currency(enum.Enum):
    EUR = "eur"
    USD = "usd"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Pair(NamedTuple):
    left: int
    right: int


@dataclass(frozen=True)
class Line:
    sku: str
    price: Decimal
    quantity: int = 1


@dataclass
class Order:
    id: UUID
    placed_at: datetime
    currency: Currency
    lines: list[Line]
    note: str | None = None
    tags: dict[str, float] = field(default_factory=dict)
    due: date | None = None
    at: time | None = None
    kind: Literal["new", "again"] = "new"
    size: tuple[int, int] | None = None
    parent: Order | None = None


@dataclass
class Circle:
    radius: float


@dataclass
class Square:
    side: float


@dataclass
class Drawing:
    shapes: list[Circle | Square]


@attrs.define
class Point:
    x: int
    _secret: int = 0
    twice: int = attrs.field(init=False, default=0)


class Item(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    sku: str
    price: Decimal
    when: datetime | None = None
    short: int = pydantic.Field(default=0, alias="s")


@dataclass
class Basket:
    items: list[Item]


ORDER = Order(ID, NOON, Currency.EUR, [Line("a", Decimal("12.50"))])


def sent(payload: object) -> Any:
    """The value that a subscriber sees."""
    return unpack_json(pack_payload(payload))


@pytest.mark.parametrize(
    ("payload", "seen"),
    [
        (NOON, "2026-11-26T10:00:00.500000Z"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"),
        (date(2026, 11, 26), "2026-11-26"),
        (time(8, 30), "08:30:00"),
        (Decimal("12.50"), "12.50"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0.001"), "-0.001"),
        (ID, "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"),
        (Currency.EUR, "eur"),
        (Level.LOW, 1),
        (Word.YES, "yes"),
        ((1, (2, 3)), [1, [2, 3]]),
        (Pair(1, 2), [1, 2]),
        (OrderedDict(b=1, a=[Word.YES]), {"b": 1, "a": ["yes"]}),
        (UserDict({"a": 1}), {"a": 1}),
        ({Word.YES: 1}, {"yes": 1}),
        (Line("a", Decimal(2)), {"sku": "a", "price": "2", "quantity": 1}),
        (Point(1, 2), {"x": 1, "_secret": 2, "twice": 0}),
        (
            Item(sku="a", price=Decimal("1.0"), s=3),
            {"sku": "a", "price": "1.0", "when": None, "s": 3},
        ),
        (
            [Line("a", Decimal(2)), {"at": NOON}],
            [{"sku": "a", "price": "2", "quantity": 1}, {"at": sent(NOON)}],
        ),
    ],
    ids=repr,
)
def test_each_type_has_its_encoding(payload: object, seen: object) -> None:
    assert sent(payload) == seen


@pytest.mark.parametrize(
    ("payload", "place", "what"),
    [
        ({"a": [1, {"b/c~d": {1, 2}}]}, "/a/1/b~1c~0d", "a value of type set"),
        ([b"bytes"], "/0", "a value of type bytes"),
        (object(), "(root)", "a value of type object"),
        (Line, "(root)", "a value of type type"),
        # That is the point.
        ({"at": datetime(2026, 1, 1)}, "/at", "a datetime without a time zone"),  # noqa: DTZ001
        ({"n": math.nan}, "/n", "a number that is not finite"),
        ({"n": [-0.0]}, "/n/0", "negative zero"),
        ({"n": 2**53}, "/n", "an integer beyond 2**53-1"),
        ({"n": Decimal("NaN")}, "/n", "a Decimal that is not finite"),
        ({"n": Decimal("1E+999999")}, "/n", "a Decimal beyond 100 digits"),
        ({"a": {1: 2}}, "/a", "a map with a key of type int"),
        ({"a": {"eur": 1, Currency.EUR: 2}}, "/a/eur", "two keys of a map"),
        ({"a": "\ud800"}, "/a", "a lone surrogate"),
        ({"\ud800": 1}, "(root)", "a lone surrogate"),
        (deque([1]), "(root)", "a value of type deque"),
        (timedelta(1), "(root)", "a value of type timedelta"),
        (
            Order(ID, NOON, Currency.EUR, [Line("a", {1})]),  # type: ignore[arg-type]
            "/lines/0/price",
            "a value of type set",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "payload",
)
def test_a_fault_has_its_place_and_no_value(payload: object, place: str, what: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        pack_payload(payload)
    assert refused.value.what.startswith(f"the payload cannot be sent: {place}: ")
    assert what in refused.value.what
    assert refused.value.hint


@dataclass(slots=True)
class Unset:
    never: int = field(init=False)


class Node(pydantic.BaseModel):
    next: Node | None = None


class Blob(pydantic.BaseModel):
    data: bytes


class Broken(UserDict[str, int]):
    def items(self) -> Any:
        raise LookupError("SECRET")


LOOP = Node()
LOOP.next = LOOP


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (datetime.min.replace(tzinfo=EAST), "/a/0: a datetime outside the years 1 to 9999 in UTC"),
        (datetime.max.replace(tzinfo=WEST), "/a/0: a datetime outside the years 1 to 9999 in UTC"),
        (Unset(), "/a/0/never: a field of Unset that is not set"),
        (LOOP, "/a/0: a value of type Node that cannot be written ("),
        (Blob(data=b"\xff"), "/a/0: a value of type Blob that cannot be written ("),
        (Broken(), "/a/0: a value of type Broken that cannot be written (LookupError)"),
    ],
    ids=["min", "max", "unset", "loop", "bytes", "own error"],
)
def test_an_error_of_a_value_is_a_fault_with_a_place(value: object, what: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        pack_payload({"a": [value]})
    assert refused.value.what.startswith(f"the payload cannot be sent: {what}")
    assert "SECRET" not in refused.value.what


@pytest.mark.parametrize(
    ("key", "step"),
    [
        ("a\nERROR sealbus: forged", r"a\nERROR sealbus: forged"),
        ("\x1b[2J\u202e", r"\x1b[2J\u202e"),
        ("数量/~", "数量~1~0"),
        ("k" * 81, "k" * 77 + "..."),
    ],
)
def test_a_key_in_an_error_is_readable_and_short(key: str, step: str) -> None:
    """Whoever sends a payload chooses its keys, and errors go into logs."""
    with pytest.raises(InvalidInput) as unsent:
        pack_payload({key: {1}})
    assert unsent.value.what == f"the payload cannot be sent: /{step}: a value of type set"
    line = {"sku": "a", "price": "1"}
    readings: list[tuple[Any, Any, str]] = [
        (dict[str, int], {key: "x"}, "expected an integer"),
        (Line, {**line, key: "x"}, "unknown to Line"),
        (Item, {**line, key: "x"}, "extra forbidden"),
    ]
    for kind, payload, what in readings:
        with pytest.raises(Malformed) as unread:
            read(payload, kind)
        assert unread.value.what.endswith(f": /{step}: {what}")


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidInput, match=f"nesting deeper than {MAX_DEPTH}"):
        pack_payload(loop)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON)
def test_a_plain_payload_is_sent_as_it_is(payload: Any) -> None:
    assert pack_payload(payload) == pack_json(payload)


@given(
    st.builds(
        Order,
        id=st.uuids(),
        placed_at=st.datetimes(timezones=st.just(UTC)),
        currency=st.sampled_from(Currency),
        lines=st.lists(
            st.builds(
                Line, sku=st.text(st.characters(codec="utf-8")), price=st.decimals(-99999, 99999)
            )
        ),
        note=st.none() | st.text(st.characters(codec="utf-8")),
        tags=st.dictionaries(st.text(st.characters(codec="utf-8")), st.floats(0.5, 100)),
        due=st.none() | st.dates(),
        at=st.none() | st.times(),
        kind=st.sampled_from(["new", "again"]),
        size=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)),
        parent=st.none() | st.just(ORDER),
    )
)
def test_a_dataclass_comes_back_as_it_was(order: Order) -> None:
    assert read(sent(order), Order) == order


def test_other_classes_come_back_as_they_were() -> None:
    item = Item(sku="a", price=Decimal("1.0"), when=NOON, s=3)
    assert read(sent(item), Item) == item
    assert read(sent(Basket([item])), Basket) == Basket([item])
    assert read(sent(Point(1, 2)), Point) == Point(1, 2)
    drawing = Drawing([Square(1.0), Circle(2.5)])
    assert read(sent(drawing), Drawing) == drawing
    assert read(sent([Line("a", Decimal(2))]), list[Line]) == [Line("a", Decimal(2))]


class Rate(enum.Enum):
    """Its values are sent in another form."""

    LOW = Decimal("1.50")
    SPAN = (1, 2)
    SINCE = date(2026, 11, 26)
    OTHER = Currency.EUR
    MAP = MappingProxyType({"a": 1, "b": 2})
    UNSENT = object()


class Same(enum.Enum):
    NUMBER = Decimal("1.5")
    TEXT = "1.5"


class Free(pydantic.RootModel[dict[str, int]]):
    pass


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    BOTH = 3
    OWN = 4


class Odd(enum.Flag, boundary=enum.CONFORM):
    ONE = 1


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    at: datetime
    day: date
    price: Decimal
    id: UUID
    currency: Currency
    size: tuple[int, int]
    tags: set[str]


STRICT = Strict(
    at=datetime(2026, 11, 26, tzinfo=UTC),
    day=date(2026, 11, 26),
    price=Decimal("1E-7"),
    id=ID,
    currency=Currency.EUR,
    size=(1, 2),
    tags={"a"},
)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((one, Rate) for one in Rate if one is not Rate.UNSENT),
        *((one, Access) for one in (Access(0), Access.READ, Access.BOTH, Access.READ | Access.OWN)),
        *((one, Level) for one in Level),
        (Currency.EUR, Literal[Currency.EUR, Level.LOW]),
    ],
    ids=str,
)
def test_a_value_that_is_sent_in_another_form_comes_back(value: object, kind: Any) -> None:
    made = read(sent(value), kind)
    assert (made, type(made)) == (value, type(value))


def test_a_strict_model_comes_back() -> None:
    assert read(sent(STRICT), Strict) == STRICT


def test_keys_of_a_model_keep_their_order() -> None:
    assert list(read({"b": 1, "a": 2}, Free).root) == ["b", "a"]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Access, 8),
        (Access, -1),
        (Access, True),
        (Access, 1.0),
        (Access, "1"),
        (Odd, 3),
        (Level, True),
        (Level, 1.0),
        (Rate, [1, 2.0]),
        (Rate, None),
    ],
)
def test_another_value_is_no_member(kind: type[enum.Enum], payload: object) -> None:
    with pytest.raises(Malformed, match=f"expected a value of {kind.__name__}"):
        read(payload, kind)


def test_members_that_are_sent_as_one_value_are_refused() -> None:
    """A subscriber could not tell them apart."""
    with pytest.raises(InvalidInput, match="sent as the same value"):
        read("1.5", Same)


PLAIN_ORDER = sent(ORDER)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": None}, "/id: expected a UUID"),
        ({"id": "x"}, "/id: expected a UUID"),
        ({"placed_at": "2026-11-26T10:00:00"}, "/placed_at: expected a date and time with a zone"),
        ({"placed_at": "2026-11-26"}, "/placed_at: expected a date and time with a zone"),
        ({"currency": "gbp"}, "/currency: expected a value of Currency"),
        ({"lines": {}}, "/lines: expected an array"),
        ({"lines": [{"sku": "a"}]}, "/lines/0/price: missing"),
        (
            {"lines": [{"sku": "a", "price": 1.5}]},
            "/lines/0/price: expected a decimal number as text",
        ),
        (
            {"lines": [{"sku": "a", "price": "Infinity"}]},
            "/lines/0/price: expected a decimal number as text",
        ),
        (
            {"lines": [{"sku": "a", "price": "1", "quantity": True}]},
            "/lines/0/quantity: expected an integer",
        ),
        ({"lines": [{"sku": "a", "price": "1", "b/c": 1}]}, "/lines/0/b~1c: unknown to Line"),
        ({"note": 1}, "/note: expected text"),
        ({"tags": {"a": "x"}}, "/tags/a: expected a number"),
        ({"kind": "old"}, "/kind: expected one of the literals"),
        ({"size": [1]}, "/size: expected an array of 2"),
        ({"more": 1}, "/more: unknown to Order"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_place(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Malformed) as refused:
        read({**PLAIN_ORDER, **change}, Order)
    assert refused.value.what == f"the payload is no Order: {said}"


def test_a_union_names_the_expected_classes() -> None:
    with pytest.raises(Malformed, match=r"/shapes/0: expected Circle or Square"):
        read({"shapes": [{"width": 1}]}, Drawing)


def chain(innermost: str) -> dict[str, Any]:
    """The deepest payload of nested maps. Only its last field tells the class of each."""
    inner: dict[str, Any] = {"next": None, "side": innermost}
    for _ in range(MAX_DEPTH - 1):
        inner = {"next": inner, "side": "right"}
    return inner


def test_a_recursive_union_reads_each_value_once() -> None:
    """Otherwise each level doubles the work, and a small message takes days."""
    Right.made = 0
    read(chain("right"), Right)
    assert Right.made == MAX_DEPTH


def test_a_recursive_union_refuses_each_value_once() -> None:
    Right.made = 0
    with pytest.raises(Malformed, match="/next: expected Left or Right"):
        read(chain("wrong"), Right)
    assert Right.made == 1


@pytest.mark.parametrize("kind", [Callable[[int], str], list[Callable[[int], str]]], ids=str)
def test_a_type_that_no_payload_has_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot be read from a payload"):
        read([1], kind)


@pytest.mark.parametrize(("name", "payload"), [("List", [1, "x"]), ("Dict", {"a": 1, "b": "x"})])
def test_a_bare_generic_reads_as_its_builtin_does(name: str, payload: object) -> None:
    kind = getattr(typing, name)
    assert read(payload, kind) == read(payload, type(payload)) == payload
    with pytest.raises(Malformed):
        read(1, kind)


@pytest.mark.parametrize("name", ["Tuple", "Sequence", "Mapping", "Generic"])
def test_another_bare_generic_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read from a payload"):
        read([], getattr(typing, name))


@pytest.mark.parametrize("kind", [tuple, GenericAlias(list, ()), GenericAlias(dict, (str,))])
def test_a_generic_without_its_types_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot be read from a payload"):
        read([], kind)


def test_the_first_type_of_a_union_that_fits_is_used() -> None:
    """Python calls the two unions equal."""
    text = "00000000-0000-0000-0000-000000000000"
    unions: list[Any] = [str | UUID, UUID | str]
    assert [type(read(text, one)) for one in unions] == [str, UUID]
    lists: list[Any] = [list[str | UUID], list[UUID | str]]
    assert [type(read([text], one)[0]) for one in lists] == [str, UUID]


@pytest.mark.parametrize("number", [2, -3, 0, 2**53 - 1, 1 - 2**53])
def test_a_float_without_a_fraction_is_read_as_an_int(number: int) -> None:
    """JSON Schema takes it for an integer, so a relay accepts it."""
    made = read({"number": float(number)}, Number)
    assert (made.number, type(made.number)) == (number, int)


@pytest.mark.parametrize("number", [2.5, 2.0**53, -(2.0**53), 1e300, math.inf, math.nan, True, "2"])
def test_a_value_that_is_no_integer_is_not_rounded(number: object) -> None:
    with pytest.raises(Malformed, match=r"/number: expected an integer"):
        read({"number": number}, Number)


@pytest.mark.parametrize("text", ["12.50", "-0.001", "0", "1E-7", "1E+100", "0E-10", "9" * 100])
def test_a_decimal_that_a_publisher_writes_is_read(text: str) -> None:
    """A pydantic model writes an exponent, and nothing else does."""
    assert str(read(text, Decimal)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("1E+101", "1E-101", "1E+1000000", "1E+99999999999999999999"),
        *("9" * 101, "0." + "0" * 100 + "1"),
        *("1e3", "1E3", "+1", ".5", "5.", " 5", "5\n", "1_0", "\u0661", "NaN", "Infinity", ""),
    ],
)
def test_another_text_is_no_decimal(text: str) -> None:
    """int() of 1E+1000000 takes half a minute, and most readers refuse 1_0."""
    with pytest.raises(Malformed, match="expected a decimal number as text"):
        read(text, Decimal)


@pytest.mark.parametrize("payload", [None, [], "x", 1])
def test_a_value_that_is_no_map_is_no_order(payload: object) -> None:
    with pytest.raises(Malformed, match=r"\(root\): expected a map"):
        read(payload, Order)


def test_a_model_names_places_and_no_values() -> None:
    with pytest.raises(Malformed) as refused:
        read({"items": [{"sku": "SECRET", "price": "SECRET", "more": "SECRET"}]}, Basket)
    assert refused.value.what == (
        "the payload is no Basket: /items/0/price: decimal parsing; /items/0/more: extra forbidden"
    )


def test_a_refusal_by_the_class_is_told_without_the_value() -> None:
    with pytest.raises(
        Malformed, match=r"\(root\): Even does not take it \(ValueError\)"
    ) as refused:
        read({"number": 3}, Even)
    assert isinstance(refused.value.__cause__, ValueError)


@dataclass
class Number:
    number: int


@dataclass
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(self.number)


@dataclass
class Left:
    next: Left | Right | None
    side: Literal["left"]


@dataclass
class Right:
    made: ClassVar = 0
    next: Left | Right | None
    side: Literal["right", "wrong"]

    def __post_init__(self) -> None:
        Right.made += 1
        assert Right.made <= MAX_DEPTH
        if self.side == "wrong":
            raise ValueError(self.side)


@dataclass
class Strange:
    what: complex


def test_a_type_that_cannot_be_read_is_the_authors_mistake() -> None:
    with pytest.raises(InvalidInput, match="complex cannot be read"):
        read({"what": 1}, Strange)
    with pytest.raises(InvalidInput, match="set"):
        read([], set[int])
