"""The vectors catch small mistakes in the Python client.

One line of its source is changed, and some vector fails. ``tests/vectors/client_mistakes.py`` lists
the lines.
"""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from sealbus.protocol import codec
from tests.vectors import test_client_vectors as client
from tests.vectors import test_pin_vectors as pinned
from tests.vectors import test_vectors as plain
from tests.vectors.client_mistakes import ALL, MISTAKES, PAYLOADS, QUICK, Runs
from tests.vectors.test_planted_mistakes import mutated

pytestmark = pytest.mark.slow


def fails(runs: Runs) -> bool:
    """Whether some vector fails."""
    for test, vectors in runs:
        for vector in vectors:
            try:
                test(vector)
            # However it fails, it is noticed.
            except (Exception, pytest.fail.Exception):  # noqa: BLE001
                return True
    return False


def plant(monkeypatch: pytest.MonkeyPatch, module: ModuleType, made: ModuleType) -> None:
    """Replace what ``module`` defines with the version of ``made``.

    This covers all modules of the client and of these tests.
    """
    own = {
        id(value): getattr(made, name)
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and hasattr(made, name)
    }
    for name, other in list(sys.modules.items()):
        if name.split(".")[0] != "sealbus" and other not in (client, pinned, plain):
            continue
        for attribute, value in list(vars(other).items()):
            if id(value) in own:
                monkeypatch.setattr(other, attribute, own[id(value)])


def test_the_client_meets_every_vector() -> None:
    assert [runs for runs in ALL if fails(runs)] == []


@pytest.mark.parametrize(
    ("runs", "module", "right", "wrong"),
    MISTAKES,
    ids=[
        f"{module.__name__}: {wrong.strip() or 'without'} ({right.strip()})"[:70]
        for _, module, right, wrong in MISTAKES
    ],
)
def test_a_mistake_in_the_client_is_caught(
    runs: Runs, module: ModuleType, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = mutated(module, right, wrong)
    if module is codec and (right, wrong) not in QUICK:
        never_quick(made)
    plant(monkeypatch, module, made)
    assert fails(runs)


def never_quick(made: ModuleType) -> None:
    """Have a version of the codec leave each payload to the careful way."""
    vars(made).update(_read_quickly=lambda *_: vars(made)["_UNSURE"], _write_quickly=lambda _: b"")


def test_the_careful_codec_alone_meets_every_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    made = mutated(codec, "_UNSURE = object()", "_UNSURE = object()")
    never_quick(made)
    plant(monkeypatch, codec, made)
    assert not fails(PAYLOADS)
