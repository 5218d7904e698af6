"""The admission text: its words, and texts that are not one."""

from __future__ import annotations

import pytest

from sealbus.errors import Malformed
from sealbus.protocol.admission import AdmissionText

KEY = "UAAAA"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (AdmissionText("order", KEY), "sealbus/1 order UAAAA -"),
        (
            AdmissionText("order", KEY, ("order_a", "order_b")),
            "sealbus/1 order UAAAA - order_a order_b",
        ),
        (
            AdmissionText("order", KEY, ("order_a",), "AAAA"),
            "sealbus/1 order UAAAA AAAA order_a",
        ),
    ],
)
def test_a_text_is_written_and_read(said: AdmissionText, text: str) -> None:
    assert said.encode() == text
    assert AdmissionText.decode(text) == said


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "does not begin with sealbus/1"),
        ("sealbus/2 order UAAAA -", "does not begin with sealbus/1"),
        ("sealbus/1 order", "does not begin with sealbus/1"),
        ("sealbus/1 order UAAAA", "a bot, a key and a certificate"),
        (" sealbus/1 order UAAAA", "does not begin with sealbus/1"),
        ("sealbus/1  order UAAAA -", "names no bot"),
        ("sealbus/1 Order UAAAA -", "names no bot"),
        ("sealbus/1 order UÄAAA", "is not ASCII"),
    ],
)
def test_other_text_is_refused_by_its_rule(text: str, what: str) -> None:
    with pytest.raises(Malformed, match=what):
        AdmissionText.decode(text)


def test_a_blank_too_many_is_a_word() -> None:
    """The signature covers the bytes, so nothing may read two texts as one."""
    assert AdmissionText.decode("sealbus/1 order UAAAA - ").consumers == ("",)
