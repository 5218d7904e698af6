"""``identity_providers`` and ``identities`` of a policy, and the bus's session-issuer key."""

from __future__ import annotations

import pytest

from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus_broker.gate.identities import MAX_TOKEN_LIFE_MS, Identity, Provider
from tests.policy.folder import Folder

PROVIDERS = """\
identity_providers:
  cluster:
    issuer: https://oidc.example.com/cluster-7
    audience: sealbus:shop
    ca: cluster.pem
    token_life: 1h
  ci:
    issuer: https://ci.example.com
    audience: sealbus:shop
    algorithm: ES256
"""
CI = "      - provider: ci\n        claims: {project: shop/order, protected: true, runner: 7}\n"
IDENTITIES = f"""\
    identities:
      - provider: cluster
        subject: system:serviceaccount:shop:order
{CI}"""
ORDER = "    subscribe: [stock.reserved]\n"


@pytest.fixture
def shop(bus: Folder) -> Folder:
    bus.change("bots:\n", f"{PROVIDERS}bots:\n")
    bus.change(ORDER, ORDER + IDENTITIES)
    bus.key("inventory")
    bus.key("sealbus")
    return bus


def test_policy_has_the_identities(shop: Folder) -> None:
    loaded = shop.load()
    assert not [note for note in loaded.notes if note.file == "policy.yaml"]
    assert loaded.policy is not None
    ca = str(shop.root / "cluster.pem")
    url = "https://oidc.example.com/cluster-7"
    cluster = Provider("cluster", url, "sealbus:shop", "RS256", ca, 3_600_000)
    ci = Provider("ci", "https://ci.example.com", "sealbus:shop", "ES256", None, MAX_TOKEN_LIFE_MS)
    claims = (("project", "shop/order"), ("protected", True), ("runner", 7))
    assert loaded.policy.bots["order"].identities == (
        Identity(cluster, "system:serviceaccount:shop:order"),
        Identity(ci, None, claims),
    )


def test_only_bots_with_identities_have_the_issuer_key(shop: Folder) -> None:
    own = PublicKey.parse(shop.key("order"), KeyKind.BOT).raw
    issuer = PublicKey.parse(shop.key("sealbus"), KeyKind.BOT).raw
    policy = shop.load().policy
    assert policy is not None
    assert set(policy.session_issuers) == {issuer}
    assert set(policy.bots["order"].keys) == {own, issuer}
    assert issuer not in policy.bots["inventory"].keys


def test_issuer_key_has_its_times(shop: Folder) -> None:
    until = "    not_before: 2026-11-24T08:00:00Z\n"
    more = "    revoked: 2026-11-25T08:00:00Z\n    sessions_from: 2026-11-24T09:00:00Z\n"
    shop.change(until, until + more, "keys/sealbus.yaml")
    policy = shop.load().policy
    assert policy is not None
    (key,) = policy.bots["order"].keys.values()
    assert key.revoked_ms is not None
    assert key.sessions_from_ms > 0


def test_identities_need_the_issuer_key(shop: Folder) -> None:
    (shop.root / "keys/sealbus.yaml").unlink()
    problem = shop.problem()
    assert problem.what == (
        "identities need the bus's session-issuer key, and keys/sealbus.yaml has none"
    )
    assert problem.hint is not None
    assert "sealbus keys issuer" in problem.hint


def test_folder_without_providers_needs_no_issuer_key(bus: Folder) -> None:
    assert bus.load().policy is not None


def test_bot_with_the_issuer_key_as_its_own_is_refused(shop: Folder) -> None:
    shop.key("inventory", shop.key("sealbus"))
    assert "this key is also inventory's" in shop.problem().what


def test_shared_identity_and_idle_provider_are_noted(shop: Folder) -> None:
    entry = "    identities: [{provider: ci, claims: {project: a}}]\n"
    shop.change(IDENTITIES, entry)
    shop.change("    subscribe: [orders.placed, stock.check]\n", entry)
    assert [note.what for note in shop.load().notes if note.file == "policy.yaml"] == [
        "no bot has an identity of this provider",
        "this identity also stands for order",
    ]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("https://ci.example.com", "http://ci.example.com", "begins with https://"),
        ("https://ci.example.com", "https://a:b@ci.example.com", "begins with https://"),
        ("https://ci.example.com", "https://ci.example.com?a=b", "more than a host and a path"),
        ("https://ci.example.com", "'https://ci.example.com#'", "more than a host and a path"),
        ("https://ci.example.com", "https://", "begins with https://"),
        ("https://ci.example.com", "https://[::1", "issuer is not a URL"),
        ("https://ci.example.com", '"https://ci.example.com/\\u0441"', "beyond printable ASCII"),
        ("https://ci.example.com", r"'https://ci.example.com/\a'", "characters that no URL has"),
        ("issuer: https://ci.example.com", "isuer: https://ci.example.com", "unknown name isuer"),
        ("    issuer: https://ci.example.com\n", "", "issuer is missing"),
        ("algorithm: ES256", "algorithm: HS256", "algorithm is not known"),
        ("algorithm: ES256", "algorithm: none", "algorithm is not known"),
        ("algorithm: ES256", "algorithm: [ES256, RS256]", "algorithm is not known"),
        ("token_life: 1h", "token_life: 25h", "token_life is out of range"),
        ("token_life: 1h", "token_life: 59s", "token_life is out of range"),
        ("ca: cluster.pem", "ca: 7", "ca is not a text"),
        ("  ci:\n", "  C I:\n", "provider name 'C I' is not valid"),
        ("provider: cluster\n", "provider: clster\n", "there is no such provider"),
        (
            "        subject: system:serviceaccount:shop:order\n",
            "",
            "neither a subject nor a claim",
        ),
        ("subject: system", "subject: [system]\n        x: s", "unknown name x"),
        ("protected: true", "sub: order", "sub is checked by itself"),
        ("protected: true", "exp: 7", "exp is checked by itself"),
        ("protected: true", "protected: [a]", "is not a text, a whole number, true or false"),
        ("identities:\n", "identities: {}\n      x:\n", "policy.yaml"),
        (
            "  inventory:\n",
            "    seals_directly: true\n  inventory:\n",
            "a bot with identities may not seal directly",
        ),
    ],
)
def test_problem_is_named(shop: Folder, old: str, new: str, told: str) -> None:
    shop.change(old, new)
    assert any(told in problem for problem in shop.problems()), shop.problems()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "identity_providers:\n",
            "identity_providers:\n"
            + "".join(
                f"  p{n}: {{issuer: 'https://{n}.example', audience: a}}\n" for n in range(15)
            ),
            "has 17 providers",
        ),
        (
            "    identities:\n",
            "    identities:\n"
            + "".join(f"      - {{provider: ci, subject: s{n}}}\n" for n in range(15)),
            "identities is not a list of identities",
        ),
        (
            "{project: shop/order, protected: true, runner: 7}",
            "{" + ", ".join(f"c{n}: a" for n in range(9)) + "}",
            "has 9 claims",
        ),
        (
            "system:serviceaccount:shop:order",
            "s" * 257,
            "has 257 characters; at most 256",
        ),
        (
            CI,
            CI * 2,
            "the identity occurs here twice",
        ),
    ],
)
def test_limit_is_named(shop: Folder, old: str, new: str, told: str) -> None:
    shop.change(old, new)
    assert any(told in problem for problem in shop.problems()), shop.problems()
