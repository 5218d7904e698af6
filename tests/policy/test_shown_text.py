"""A problem shows the letters of every language. It escapes a character that could steer a terminal
once."""

from __future__ import annotations

import json

import pytest

from sealbus_broker.policy.problems import Problem
from tests.policy.folder import Folder


def in_a_value(bus: Folder, text: str) -> Problem:
    bus.write("schemas/order.v1.json", json.dumps({"type": text}))
    return bus.problem()


def in_a_list(bus: Folder, text: str) -> Problem:
    bus.write("schemas/order.v1.json", json.dumps({"required": [text, text]}))
    return bus.problem()


def in_the_draft(bus: Folder, text: str) -> Problem:
    bus.write("schemas/order.v1.json", json.dumps({"$schema": text}))
    return bus.problem()


def in_a_keyword(bus: Folder, text: str) -> Problem:
    bus.write("schemas/order.v1.json", json.dumps({"type": "object", text: 1}))
    return bus.problem()


def in_a_name(bus: Folder, text: str) -> Problem:
    bus.change("version: 1", f"version: 1\n{json.dumps(text)}: 1")
    return bus.problem()


def in_a_subject(bus: Folder, text: str) -> Problem:
    bus.change("publish: [orders.placed]", f"publish: [{json.dumps(text)}]")
    return bus.load().problems[0]


PLACES = [in_a_value, in_a_list, in_the_draft, in_a_keyword, in_a_name, in_a_subject]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("text", ["数量", "größe", "количество"])
def test_letters_of_every_language_are_shown(bus: Folder, place: object, text: str) -> None:
    assert callable(place)
    assert text in str(place(bus, text))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_character_that_steers_is_escaped_once(bus: Folder, place: object) -> None:
    assert callable(place)
    shown = str(place(bus, "数\x7f量"))
    assert any(once in shown for once in (r"数\x7f量", r"数\u007f量"))
