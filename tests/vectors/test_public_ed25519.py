"""Public Ed25519 vectors through our verify.

They come from C2SP/wycheproof and novifinancial/ed25519-speccheck.
"""

from __future__ import annotations

from typing import Any

import pytest

from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, PublicKey, verify
from tests.vectors.public import public

WYCHEPROOF = public("wycheproof/ed25519_test.json")
SPECCHECK = public("ed25519-speccheck/cases.json")

CASES = [
    (group["publicKey"]["pk"], test)
    for group in WYCHEPROOF["testGroups"]
    for test in group["tests"]
]

DIFFERENCES: dict[int, str] = {}
"""Wycheproof cases (``tcId``) in which libsodium's answer differs from the file, with the reason.

There is no such case.
"""

SPECCHECK_ROW = "XXXVXXXXXXXX"
"""V: accepted. The design fixes this row: a libsodium with another row would make another bus."""


def test_no_case_of_wycheproof_is_missing() -> None:
    assert len(CASES) == WYCHEPROOF["numberOfTests"] == 151
    assert {test["result"] for _, test in CASES} == {"valid", "invalid"}


@pytest.mark.parametrize(("key", "test"), CASES, ids=[f"{test['tcId']}" for _, test in CASES])
def test_wycheproof(key: str, test: dict[str, Any]) -> None:
    holds = verify(bytes.fromhex(key), bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]))
    assert (holds == (test["result"] == "valid")) is (test["tcId"] not in DIFFERENCES), test[
        "comment"
    ]


def test_speccheck_accepts_case_3_alone() -> None:
    row = "".join(
        "V"
        if verify(*(bytes.fromhex(case[field]) for field in ("pub_key", "message", "signature")))
        else "X"
        for case in SPECCHECK
    )
    assert row == SPECCHECK_ROW


def may_enrol(case: dict[str, str]) -> bool:
    text = PublicKey(bytes.fromhex(case["pub_key"]), KeyKind.BOT).text
    try:
        PublicKey.parse(text, KeyKind.BOT)
    except InvalidInput:
        return False
    return True


def test_only_the_two_good_keys_of_speccheck_can_be_enrolled() -> None:
    # 6 and 7 are good keys with an S that is too large. The others have a part of small order or
    # are not canonical. So even case 3, which has a valid signature, belongs to no bot.
    assert [number for number, case in enumerate(SPECCHECK) if may_enrol(case)] == [6, 7]


def test_every_good_key_of_wycheproof_can_be_enrolled() -> None:
    for key in {key for key, test in CASES if test["result"] == "valid"}:
        assert (
            PublicKey.parse(PublicKey(bytes.fromhex(key), KeyKind.BOT).text, KeyKind.BOT).raw.hex()
            == key
        )
