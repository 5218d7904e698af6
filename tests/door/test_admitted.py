"""The words of doors about logins."""

from __future__ import annotations

import pytest

from sealbus.errors import Malformed
from sealbus_broker.door import admitted
from sealbus_broker.door.admitted import AdmittedSessions, encode
from sealbus_broker.door.pauses import errands_of


def test_latest_login_of_a_connection_counts() -> None:
    sessions = AdmittedSessions()
    sessions.take(encode("one", 7, "order"))
    sessions.take(encode("two", 7, errands_of("order")))
    sessions.take(encode("one", 7, "inventory"))
    assert sessions.name("one", 7) == "inventory"
    assert sessions.name("two", 7) == errands_of("order")
    assert sessions.name("one", 8) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"1", b"[]", b'["a", 1]', b'["a", "b", "c"]', b'["a", 1, 1]', b'["a", 1, "A B"]'],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        AdmittedSessions().take(data)


def test_number_of_logins_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admitted, "MOST", 2)
    sessions = AdmittedSessions()
    for number in (1, 2, 1, 3):
        sessions.take(encode("one", number, "order"))
    assert [sessions.name("one", number) for number in (1, 2, 3)] == ["order", None, "order"]
