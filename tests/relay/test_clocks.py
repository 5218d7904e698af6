"""A relay's clock and nats-server's clock: the certain difference, and the allowed part of it."""

from __future__ import annotations

import pytest

from sealbus.protocol.streams import ACCEPTED
from sealbus_broker.errors import ClocksApart
from sealbus_broker.relay.store.clocks import check, difference_ms, least_difference_ms
from tests.scene import Scene, now_ms


@pytest.mark.parametrize(
    ("before", "server", "after", "certain"),
    [
        (1000, 1000, 1000, 0),
        (1000, 1001, 1002, 0),
        (1000, 61_000, 90_000, 0),  # the machine was paused meanwhile: nothing is certain
        (1000, 999, 1002, 1),
        (1000, 400, 90_000, 600),
        (1000, 1003, 1002, -1),
        (1000, 9000, 1200, -7800),
    ],
)
def test_only_a_certain_difference_counts(
    before: int, server: int, after: int, certain: int
) -> None:
    assert least_difference_ms(before, server, after) == certain


@pytest.mark.parametrize(
    ("difference", "way"), [(501, "0.5 s ahead of"), (-12_340, "12.3 s behind")]
)
def test_more_than_half_of_the_skew_is_refused(difference: int, way: str) -> None:
    """Half, because the clock of another relay may differ as much in the other direction."""
    check(ACCEPTED, 500, 1000)
    check(ACCEPTED, -500, 1000)
    with pytest.raises(
        ClocksApart, match=f"{way} nats-server's, .* clock_skew allows 0.5 s"
    ) as told:
        check(ACCEPTED, difference, 1000)
    assert "NTP" in str(told.value.hint)


@pytest.mark.parametrize("off_ms", [0, 60_000, -60_000])
async def test_a_server_tells_its_time(streams: Scene, off_ms: int) -> None:
    asking = streams.api(f"STREAM.INFO.{ACCEPTED}")
    found = await difference_ms(asking, lambda: now_ms() + off_ms)
    assert (found > 0, found < 0) == (off_ms > 0, off_ms < 0)
    assert abs(found) <= abs(off_ms)
