"""Every parser reads the seeds of fuzzing and all earlier findings.

``make fuzz`` looks for more.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sealbus_broker.policy.tree import Unreadable
from sealbus_broker.policy.yaml_tree import read_yaml_tree
from tests.fuzz.targets import ALL, MAX_BYTES, TARGETS
from tests.fuzz.words import by_words
from tests.policy.folder import Folder

CASES = Path(__file__).parent / "cases"


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_is_read_or_refused(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    assert seeds
    for data in (b"", b"\0", *seeds):
        TARGETS[name].run(data)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("policy-file", "policy.yaml"),
        ("schema-file", "schemas/order.v1.json"),
        ("key-file", "keys/order.yaml"),
    ],
)
def test_the_seeds_of_files_are_sound(name: str, file: str, tmp_path: Path) -> None:
    """Otherwise a changed seed would always be refused."""
    for at, data in enumerate(TARGETS[name].seeds()):
        folder = Folder(tmp_path / str(at))
        folder.write(file, data)
        assert folder.problems() == []


def test_a_text_changed_by_words_mostly_keeps_its_form() -> None:
    seeds = list(TARGETS["policy-file"].seeds())
    mutate = by_words(seeds, lambda data, most: data[:most])
    changed = {mutate(data, MAX_BYTES, at) for data in seeds for at in range(20)}
    assert changed == {mutate(data, MAX_BYTES, at) for data in seeds for at in range(20)}
    assert len(changed) > 40
    assert sum(is_yaml(data) for data in changed) > len(changed) / 2
    for at in range(20):  # also where nothing is left to change
        mutate(b"a", MAX_BYTES, at)


def is_yaml(data: bytes) -> bool:
    try:
        read_yaml_tree("f", data.decode())
    except Unreadable:
        return False
    return True


@pytest.mark.parametrize(
    "case", sorted(CASES.glob("*/*")), ids=lambda case: f"{case.parent.name}/{case.name[:14]}"
)
def test_earlier_finding_is_read_or_refused(case: Path) -> None:
    (ALL if case.parent.name == "all" else TARGETS[case.parent.name]).run(case.read_bytes())


def test_a_broken_promise_would_be_seen() -> None:
    """The targets use ``assert``, so Python must run with assertions."""
    with pytest.raises(AssertionError):
        assert not CASES.is_dir()
