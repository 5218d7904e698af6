"""Files of saved streams that are none, or that somebody has changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sealbus.protocol.streams import ACCEPTED
from sealbus_broker.errors import StreamsUnusable
from sealbus_broker.nats.snapshots import ARCHIVE, FACTS, _facts


def described(**changes: Any) -> Any:
    return {"config": {"name": ACCEPTED} | changes, "state": {"messages": 1, "last_seq": 1}}


def save(folder: Path, content: Any) -> None:
    (folder / FACTS).write_text(json.dumps(content))
    (folder / ARCHIVE).touch()


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"config": [], "state": []},
        {"config": {"name": ACCEPTED}, "state": {"messages": 1}},
        {"config": {"name": ACCEPTED}, "state": {"messages": "x", "last_seq": 1}},
        described(name="INGRESS"),
        described(metadata=[1]),
        described(metadata="x"),
    ],
)
def test_other_descriptions_are_refused(tmp_path: Path, content: Any) -> None:
    save(tmp_path, content)
    with pytest.raises(StreamsUnusable, match="is not the description of the saved stream"):
        _facts(tmp_path, ACCEPTED)


@pytest.mark.parametrize("metadata", [None, {}, {"a": "b"}])
def test_description_is_read(tmp_path: Path, metadata: Any) -> None:
    save(tmp_path, described(metadata=metadata))
    assert _facts(tmp_path, ACCEPTED)["state"]["messages"] == 1


@pytest.mark.parametrize("missing", [FACTS, ARCHIVE])
def test_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    save(tmp_path, described())
    (tmp_path / missing).unlink()
    with pytest.raises(StreamsUnusable, match=f"{missing} is missing"):
        _facts(tmp_path, ACCEPTED)
