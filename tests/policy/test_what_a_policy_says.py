"""``policy.yaml`` refused: all problems are reported at once, each with its line and column."""

from __future__ import annotations

import pytest

from tests.policy.folder import Folder


def test_a_sound_folder_has_no_problem(bus: Folder) -> None:
    assert bus.load().policy is not None


SUBJECT = "  orders.placed:\n    schema: order.v1\n"
UNCLEAR = "so it is not clear which rule holds"
LIVE_WITHIN = "within may not be longer than limits.live_ttl"
WITHOUT_CAUSE = "but may not receive its cause stock.check"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        # the top
        ("version: 1\n", "", "policy.yaml:1:1: the version of this file is not known"),
        ("version: 1", "version: 2", "policy.yaml:1:1: the version of this file is not known"),
        ("version: 1", "version: true", "policy.yaml:1:1: the version of this file is not known"),
        ("bus: shop\n", "", "policy.yaml:1:1: bus is missing"),
        ("bus: shop", "bus: 7", "policy.yaml:2:1: bus is not a text"),
        ("bus: shop", 'bus: ""', "policy.yaml:2:1: bus is empty"),
        ("bus: shop", "bus: The Shop", "policy.yaml:2:1: bus name 'The Shop' is not valid"),
        ("bus: shop", "bus: shop\nbotz: {}", "policy.yaml:3:1: unknown name botz"),
        ("version: 1", "[1]: 2\nversion: 1", "policy.yaml:1:1: a key is not a text"),
        # limits
        ("bus: shop", "bus: shop\nlimits: {ttl: 60}", "policy.yaml:3:10: ttl is not understood"),
        ("bus: shop", "bus: shop\nlimits: {ttl: 60 s}", "policy.yaml:3:10: ttl is not understood"),
        ("bus: shop", "bus: shop\nlimits: {ttl: -60s}", "policy.yaml:3:10: ttl is not understood"),
        ("bus: shop", "bus: shop\nlimits: {ttl: 1ms}", "policy.yaml:3:10: ttl is out of range"),
        ("bus: shop", "bus: shop\nlimits: {tttl: 60s}", "policy.yaml:3:10: unknown name tttl"),
        (
            "bus: shop",
            "bus: shop\nlimits: {session: 1s}",
            "policy.yaml:3:10: session is out of range",
        ),
        ("bus: shop", "bus: shop\nlimits: {ttl: 25h}", "policy.yaml:3:10: ttl is out of range"),
        (
            "bus: shop",
            "bus: shop\nlimits: {attempts: 0}",
            "policy.yaml:3:10: attempts is out of range",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {attempts: 1001}",
            "policy.yaml:3:10: attempts is out of range",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {attempts: ten}",
            "policy.yaml:3:10: attempts is not a whole number",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {attempts: true}",
            "policy.yaml:3:10: attempts is not a whole number",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {replicas: 2}",
            "policy.yaml:3:10: 2 replicas are no safer than 1",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {replicas: 4}",
            "policy.yaml:3:10: 4 replicas are no safer than 3",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {flood_messages: 999}",
            "policy.yaml:3:10: flood_messages is out of range",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {flood_bytes: 7MiB}",
            "policy.yaml:3:10: flood_bytes is out of range",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {subscriptions: 33}",
            "policy.yaml:3:10: subscriptions is out of range",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {accepted_bytes: 4GB}",
            "policy.yaml:3:10: accepted_bytes is not understood",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {accepted_bytes: 1KiB}",
            "policy.yaml:3:10: accepted_bytes is out of range",
        ),
        (
            "bus: shop",
            "bus: shop\nlimits: {retention: 1m}",
            "policy.yaml:3:10: retention is shorter than the nonce ledger must remember",
        ),
        ("bus: shop", "bus: shop\nlimits: [60s]", "policy.yaml:3:1: is not a mapping"),
        # violations
        (
            "bus: shop",
            "bus: shop\non_violation: {schema: keep}",
            "policy.yaml:3:16: what to do is not known",
        ),
        (
            "bus: shop",
            "bus: shop\non_violation: {shema: drop}",
            "policy.yaml:3:16: unknown name shema",
        ),
        (
            "bus: shop",
            "bus: shop\non_violation: {default: yes}",
            "policy.yaml:3:16: what to do is not known",
        ),
        (
            SUBJECT,
            SUBJECT + "    on_violation: {default: drop}\n",
            "policy.yaml:13:20: unknown name default",
        ),
        # subjects
        (
            "schema: order.v1\n  stock.r",
            "schema: ordr.v1\n  stock.r",
            "policy.yaml:12:5: there is no such schema",
        ),
        (
            "schema: order.v1\n  stock.r",
            "schema: [order.v1, no.v1]\n  stock.r",
            "policy.yaml:12:24: there is no such schema",
        ),
        (
            "schema: order.v1\n  stock.r",
            "schema: []\n  stock.r",
            "policy.yaml:11:3: subject orders.placed has no schema",
        ),
        (
            "schema: order.v1\n  stock.r",
            "schema:\n  stock.r",
            "policy.yaml:11:3: subject orders.placed has no schema",
        ),
        (
            "schema: order.v1\n  stock.r",
            "schema: [[a]]\n  stock.r",
            "policy.yaml:12:14: schema is not a text",
        ),
        (SUBJECT, SUBJECT + "    delivery: fast\n", "policy.yaml:13:5: delivery is not known"),
        (
            SUBJECT,
            SUBJECT + "    reply: order.v1\n",
            "policy.yaml:13:5: only a live subject takes replies",
        ),
        (SUBJECT, SUBJECT + "    rate: 200\n", "policy.yaml:13:5: rate is not understood"),
        (SUBJECT, SUBJECT + "    rate: 0/s\n", "policy.yaml:13:5: rate is not understood"),
        (SUBJECT, SUBJECT + "    rate: 5/s burst 0\n", "policy.yaml:13:5: rate is not understood"),
        (SUBJECT, SUBJECT + "    rte: 5/s\n", "policy.yaml:13:5: unknown name rte"),
        (
            SUBJECT,
            SUBJECT + "  Orders: {schema: order.v1}\n",
            "policy.yaml:13:3: pattern 'Orders' is not valid",
        ),
        (
            SUBJECT,
            SUBJECT + "  orders.*: {schema: order.v1}\n",
            f"policy.yaml:13:3: orders.* and orders.placed overlap, {UNCLEAR}",
        ),
        (
            SUBJECT,
            SUBJECT + "  sealbus.x: {schema: order.v1}\n",
            "policy.yaml:13:3: sealbus.* belongs to the bus itself",
        ),
        (
            SUBJECT,
            SUBJECT + "  reply.order: {schema: order.v1}\n",
            "policy.yaml:13:3: reply.* belongs to the bus itself",
        ),
        (
            SUBJECT,
            SUBJECT + "  '>': {schema: order.v1}\n",
            "policy.yaml:13:3: the first token of a declared subject may not be a wildcard",
        ),
        (
            SUBJECT,
            SUBJECT + "  '*.x': {schema: order.v1}\n",
            "policy.yaml:13:3: the first token of a declared subject may not be a wildcard",
        ),
        (
            SUBJECT,
            SUBJECT + "  orders.placed: {schema: order.v1}\n",
            "policy.yaml:13:3: the key orders.placed occurs twice",
        ),
        # causes
        (SUBJECT, SUBJECT + "    cause: {within: 1m}\n", "policy.yaml:13:5: subject is missing"),
        (
            SUBJECT,
            SUBJECT + "    cause: {subject: a.b, within: 1m}\n",
            "policy.yaml:13:13: no declared subject can be this cause",
        ),
        (
            SUBJECT,
            SUBJECT + "    cause: {subject: stock.check, within: 2d}\n",
            "policy.yaml:13:35: within is out of range",
        ),
        (
            SUBJECT,
            SUBJECT + "    cause: {subject: stock.check}\n",
            "policy.yaml:13:5: within is not understood",
        ),
        (
            SUBJECT,
            SUBJECT + "    cause: {subject: stock.check, within: 1m, once: 1}\n",
            "policy.yaml:13:47: once is not true or false",
        ),
        (
            SUBJECT,
            SUBJECT + "    cause: {subject: stock.check, within: 1m, match: id}\n",
            "policy.yaml:13:47: is not a JSON pointer",
        ),
        (
            SUBJECT,
            SUBJECT + "    cause: {subject: stock.check, within: 1m, match: [/a, /b~2]}\n",
            "policy.yaml:13:59: is not a JSON pointer",
        ),
        (
            "delivery: live",
            "delivery: live\n    cause: {subject: orders.placed, within: 1m, once: true}",
            f"policy.yaml:17:37: with `once` on a live subject, {LIVE_WITHIN}",
        ),
        # bots and roles
        (
            "publish: [orders.placed]",
            "publish: [orders.plced]",
            "policy.yaml:5:15: the grant covers no declared subject",
        ),
        (
            "publish: [orders.placed]",
            "publish: [Orders]",
            "policy.yaml:5:15: pattern 'Orders' is not valid",
        ),
        (
            "publish: [orders.placed]",
            "publish: a.b, c.d",
            "policy.yaml:5:5: publish is one text with commas",
        ),
        (
            "publish: [orders.placed]",
            "roles: a, b",
            "policy.yaml:5:5: roles is one text with commas",
        ),
        (
            "schema: order.v1\n  stock.r",
            "schema: order.v1,order.v2\n  stock.r",
            "policy.yaml:12:5: schema is one text with commas",
        ),
        ("publish: [orders.placed]", "publish: {a: b}", "policy.yaml:5:5: publish is not a list"),
        (
            "publish: [orders.placed]",
            "publish: [reply.order.x]",
            "policy.yaml:5:15: the grant covers no declared subject",
        ),
        (
            "publish: [orders.placed]",
            "publish: ['>']",
            "policy.yaml:5:15: the first token of a grant may not be a wildcard",
        ),
        (
            "publish: [orders.placed]",
            "publish: [sealbus.nothing]",
            "policy.yaml:5:15: the grant covers no declared subject",
        ),
        (
            "publish: [orders.placed]",
            "publsh: [orders.placed]",
            "policy.yaml:5:5: unknown name publsh",
        ),
        ("publish: [orders.placed]", "roles: [trader]", "policy.yaml:5:13: there is no such role"),
        (
            "  order:\n    pub",
            "  Order:\n    pub",
            "policy.yaml:4:3: bot name 'Order' is not valid",
        ),
        (
            "  order:\n    pub",
            "  sealbus:\n    pub",
            "policy.yaml:4:3: sealbus is the relay's own name",
        ),
        ("bots:\n", "roles:\n  r: {roles: [x]}\nbots:\n", "policy.yaml:4:7: unknown name roles"),
    ],
)
def test_mistake_is_reported_at_its_place(bus: Folder, old: str, new: str, told: str) -> None:
    bus.change(old, new)
    assert told in bus.problems()


def test_all_mistakes_are_reported_at_once_and_in_order(bus: Folder) -> None:
    bus.change("bus: shop", "bus: SHOP")
    bus.change("publish: [orders.placed]", "publish: [nothing.here]")
    bus.change("    delivery: live\n", "    delivery: lve\n")
    bus.write("schemas/other.v1.json", '{"type": "strin"}')
    bus.write("keys/nobody.yaml", "bot: nobody\nkeys: []\n")
    places = [problem.split(": ", maxsplit=1)[0] for problem in bus.problems()]
    assert places == [
        "keys/nobody.yaml:1:1",
        "keys/nobody.yaml:2:1",
        "policy.yaml:2:1",
        "policy.yaml:5:15",
        "policy.yaml:16:5",
        "policy.yaml:18:5",
        "schemas/other.v1.json:1:2",
    ]


def test_a_problem_says_got_expected_and_hint(bus: Folder) -> None:
    bus.change(
        "    delivery: live\n    schema: order.v1\n    reply: order.v1\n",
        "    delivery: lve\n    schema: order.v1\n",
    )
    assert str(bus.problem()).splitlines() == [
        "policy.yaml:16:5: delivery is not known",
        "  got: lve",
        "  expected: stream or live",
        "  hint: did you mean live?",
    ]
    assert bus.problem().as_dict() == {
        "file": "policy.yaml", "line": 16, "column": 5, "what": "delivery is not known",
        "got": "lve", "expected": "stream or live", "hint": "did you mean live?",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("ttl: 25h", "100ms to 1d"),
        ("clock_skew: 400d", "0ms to 366d"),
        ("session: 1s", "10s to 366d"),
        ("live_bytes: 1B", "1MiB to 1024TiB"),
        ("attempts: 0", "1 to 1000"),
        ("partitions: 25", "1 to 24"),
    ],
)
def test_range_is_reported_in_the_units_of_the_file(bus: Folder, limit: str, expected: str) -> None:
    bus.change("bus: shop", f"bus: shop\nlimits: {{{limit}}}")
    assert bus.problem().expected == expected


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("publish: [orders.placed]", "publsh: [orders.placed]", "did you mean publish?"),
        ("publish: [orders.placed]", "publish: [orders.plced]", "did you mean orders.placed?"),
        ("schema: order.v1\n  stock.r", "schema: ordr.v1\n  stock.r", "did you mean order.v1?"),
        ("bus: shop", "bus: shop\non_violation: {shema: drop}", "did you mean schema?"),
    ],
)
def test_a_slip_of_the_finger_gets_a_suggestion(bus: Folder, old: str, new: str, hint: str) -> None:
    bus.change(old, new)
    assert hint in [problem.hint for problem in bus.load().problems]


@pytest.mark.parametrize(("value", "hint"), [("7", "put it in quotes"), ("[shop]", "")])
def test_only_a_single_value_is_to_be_put_in_quotes(bus: Folder, value: str, hint: str) -> None:
    bus.change("bus: shop", f"bus: {value}")
    (problem,) = bus.load().problems
    assert problem.hint == hint


def test_mistake_in_a_subject_is_not_repeated_at_its_grants(bus: Folder) -> None:
    bus.change(SUBJECT, SUBJECT + "    rate: fast\n")
    assert bus.problems() == ["policy.yaml:13:5: rate is not understood"]


def test_bad_schema_is_reported_only_once(bus: Folder) -> None:
    bus.write("schemas/order.v1.json", "{")
    assert bus.problems() == [
        "schemas/order.v1.json:1:2: is not JSON: a key in double quotes is expected"
    ]


def test_text_of_a_file_is_shown_escaped_and_short(bus: Folder) -> None:
    bus.change("bus: shop", 'bus: shop\n"\\e[2J\\u202e' + "x" * 5000 + '": 1')
    problem = bus.problem()
    assert "\x1b" not in str(problem)
    assert len(str(problem)) < 500


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("version: 1", "version: 1", "policy.yaml:4:3: order has no key yet"),
        (
            SUBJECT,
            SUBJECT + "    cause: {subject: stock.check, within: 1m}\n",
            f"policy.yaml:4:3: order may publish orders.placed, {WITHOUT_CAUSE}",
        ),
    ],
)
def test_odd_but_valid_policy_is_noted(bus: Folder, old: str, new: str, note: str) -> None:
    bus.change(old, new)
    assert note in bus.notes()


def test_a_schema_that_no_subject_names_is_noted(bus: Folder) -> None:
    bus.write("schemas/spare.v1.json", "true")
    assert "schemas/spare.v1.json: no subject names this schema" in bus.notes()


DEEP = "  stock.shelf.low: {schema: order.v1}\n  stock.shelf.low.again: {schema: order.v1}\n"


@pytest.mark.parametrize(
    ("grants", "part"),
    [
        ("stock.*, stock.shelf.low", "stock.shelf.low"),
        ("stock.shelf.>, stock.*", "stock.shelf.>"),
        ("stock.*, stock.*.low", "stock.*.low"),
        ("stock.*, stock.*.*", "stock.*.*"),
    ],
)
def test_grant_below_one_that_ends_with_a_star_is_refused(
    bus: Folder, grants: str, part: str
) -> None:
    bus.change("subscribe: [stock.reserved]", f"subscribe: [{grants}]")
    bus.change("subjects:\n", f"subjects:\n{DEEP}")
    first = bus.load().problems[0]
    assert (first.line, first.column) == (4, 3)
    assert (
        first.what == f"order cannot subscribe to both stock.* and {part}, which goes on below it"
    )
    assert str(first.hint).startswith("grant stock.*.> as well")


@pytest.mark.parametrize(
    "grants", ["stock.*", "stock.*, stock.>", "stock.*, stock.*.>", "stock.shelf.*"]
)
def test_grants_that_can_be_kept_apart_are_taken(bus: Folder, grants: str) -> None:
    bus.change("subscribe: [stock.reserved]", f"subscribe: [{grants}]")
    bus.change("subjects:\n", f"subjects:\n{DEEP}")
    assert not bus.load().problems
