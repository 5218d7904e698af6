"""The queue before the handler of a live subscription: in order, bounded in number and in bytes."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealbus.protocol.delivery import Message
from sealbus.receiving import live_queue
from sealbus.receiving.live_queue import OPEN_BYTES, WAITING, WAITING_BYTES, LiveQueue


class Opened:
    """Stands for a message. Knows whether it was decoded on arrival or when its turn came."""

    def __init__(self, data: bytes, *, again: bool, index: int = 0) -> None:
        self.data, self.again, self.index = data, again, index


def a_queue() -> LiveQueue:
    return LiveQueue(lambda _, data: [cast("Message", Opened(data, again=True))])


def put(queue: LiveQueue, data: bytes) -> bool:
    """Put a message into the queue, if it has room."""
    if not queue.has_room(data):
        return False
    queue.put([cast("Message", Opened(data, again=False))], b"bus.stock.check", data)
    return True


def pop(queue: LiveQueue) -> Opened:
    return cast("Opened", queue.pop())


@given(st.lists(st.integers(0, 60) | st.none(), max_size=200))
def test_it_keeps_order_and_bounds(steps: list[int | None]) -> None:
    """A number puts a message of that size. ``None`` takes one."""
    queue, held = a_queue(), list[bytes]()
    with pytest.MonkeyPatch.context() as small:
        small.setattr(live_queue, "WAITING", 10)
        small.setattr(live_queue, "WAITING_BYTES", 200)
        small.setattr(live_queue, "OPEN_BYTES", 50)
        for number, size in enumerate(steps):
            data = number.to_bytes(2) * ((size or 0) // 2)
            if size is None:
                if held:
                    assert pop(queue).data == held.pop(0)
            elif put(queue, data):
                held.append(data)
            else:
                assert len(held) == 10 or sum(map(len, held)) + len(data) > 200
            assert len(queue._waiting) == len(held) <= 10
            assert queue._bytes == sum(map(len, held)) <= 200
            assert queue._open_bytes <= 50


def test_large_ones_are_bounded_by_their_bytes() -> None:
    queue, large = a_queue(), bytes(512 * 1024)
    while put(queue, large):
        pass
    assert len(queue._waiting) == WAITING_BYTES // len(large)
    assert [pop(queue).again for _ in range(len(queue._waiting))].count(False) == OPEN_BYTES // len(
        large
    )


def test_small_ones_are_bounded_by_their_number() -> None:
    queue = a_queue()
    while put(queue, bytes(600)):
        pass
    assert len(queue._waiting) == WAITING


def test_one_that_is_not_believed_any_more_is_left_out() -> None:
    queue = LiveQueue(lambda _, __: [])
    while put(queue, bytes(OPEN_BYTES // 2 + 1)):
        pass
    assert queue.pop() is not None
    assert queue.pop() is None


def test_messages_of_one_delivery_come_in_order() -> None:
    """The next delivery waits until all of them were taken."""
    queue = a_queue()
    for name in "ab":
        burst = [Opened(f"{name}{index}".encode(), again=False) for index in range(3)]
        queue.put(cast("list[Message]", burst), b"bus.stock.check", b"data")
    assert [pop(queue).data for _ in range(6)] == [b"a0", b"a1", b"a2", b"b0", b"b1", b"b2"]
    assert not queue
    assert queue._bytes == queue._open_bytes == 0


def test_a_message_that_came_before_is_not_decoded() -> None:
    every = [cast("Message", Opened(b"x", again=True, index=index)) for index in range(3)]
    queue = LiveQueue(lambda *_: every)
    queue.put([], b"bus.stock.check", bytes(OPEN_BYTES))
    queue.put(every[1:2], b"bus.stock.check", b"data")
    assert queue.pop() is None
    assert pop(queue).index == 1
    assert not queue
