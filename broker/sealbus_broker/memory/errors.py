"""JetStream's own errors: the numbers are nats-server's, because clients go by them."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An error as JetStream's API answers it."""

    def __init__(self, code: int, number: int, description: str) -> None:
        """``code`` is HTTP's. ``number`` is JetStream's ``err_code``."""
        super().__init__(description)
        self.code = code
        self.number = number

    def encode(self) -> dict[str, Any]:
        """The field ``error`` of an answer."""
        return {"code": self.code, "err_code": self.number, "description": str(self)}


def no_stream() -> ApiError:
    """There is no such stream."""
    return ApiError(404, 10059, "stream not found")


def no_consumer() -> ApiError:
    """There is no such consumer."""
    return ApiError(404, 10014, "consumer not found")


def no_message() -> ApiError:
    """There is no such message."""
    return ApiError(404, 10037, "no message found")


def invalid(what: str) -> ApiError:
    """The request is not as JetStream needs it."""
    return ApiError(400, 10025, what)
