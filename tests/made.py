"""The objects of a class that are made during a test."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def made(monkeypatch: pytest.MonkeyPatch, kind: type[T]) -> list[T]:
    """Return a list to which each ``kind`` is added that is made from now on."""
    found: list[T] = []
    make: Any = kind.__init__

    def watch(self: T, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        found.append(self)

    monkeypatch.setattr(kind, "__init__", watch)
    return found
