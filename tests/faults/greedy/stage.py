"""The bus under attack: ten honest bots, a bot that handles their messages, and one greedy bot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from sealbus_broker.cli.keys.files import make_key
from sealbus_broker.policy.bus_file import BusFile
from tests.e2e.shop import Shop

HONEST: Final = tuple(f"honest-{number}" for number in range(10))
HANDLER: Final = "handler"
SLOW: Final = "slow"
"""A bot with a slow handler, in a process of its own."""
GREEDY: Final = "greedy"

STORE_BYTES: Final = 64 * 1024 * 1024
"""The bytes that ACCEPTED and the quarantine may hold here.

They are few, so a bot fills its share in seconds.
"""

SHARE_BYTES: Final = STORE_BYTES // 2
"""``bot_share`` is half, which is the default."""

RATE: Final = 50
BURST: Final = 100

POLICY: Final = """\
version: 1
bus: shop
limits:
  clock_skew: 100ms
  accepted_bytes: 64MiB
  quarantine_bytes: 64MiB
on_violation:
  default: quarantine
roles:
  honest:
    publish: [work.*, ask.price]
bots:
{honest}
  handler:
    subscribe: [work.*, ask.price]
  slow:
    subscribe: [flash.*]
  greedy:
    publish: [goods.*, rated.*, caused.*, flash.*, costly.*]
    subscribe: [goods.*, flash.*]
subjects:
  work.*:
    schema: object.v1
  ask.price:
    delivery: live
    schema: object.v1
    reply: object.v1
  goods.*:
    schema: any.v1
  rated.*:
    schema: any.v1
    rate: 50/s burst 100
  caused.*:
    schema: any.v1
    cause:
      subject: goods.*
      within: 1m
  flash.*:
    delivery: live
    schema: any.v1
  costly.*:
    schema: costly.v1
    rate: 4/s burst 8
"""
SCHEMAS: Final = {
    "any.v1": "true",
    "object.v1": '{"type": "object", "additionalProperties": true}',
    "costly.v1": '{"uniqueItems": true}',
}
"""``costly`` takes a relay longest for the largest payload, among schemas that the loader accepts.

Each such payload takes 50 ms. Its subject has a rate, as ``threats.md`` advises.
"""


class Stage(Shop):
    """The bus, in a folder."""

    def __init__(self, folder: Path, honest: Sequence[str] = HONEST) -> None:
        """``honest``: the names of the honest bots."""
        self.honest = honest
        super().__init__(folder, partial(_make_folder, honest))
        facts = BusFile("shop", (self.url,), (self.secrets.bus.public,))
        for bot in (*honest, HANDLER, SLOW, GREEDY):
            make_key(self.bus, bot, facts, datetime.now(UTC))


def _make_folder(names: Sequence[str], folder: Path) -> None:
    honest = "\n".join(f"  {name}: {{roles: [honest]}}" for name in names)
    (folder / "policy.yaml").write_text(POLICY.format(honest=honest))
    (folder / "schemas").mkdir()
    for name, schema in SCHEMAS.items():
        (folder / "schemas" / f"{name}.json").write_text(schema)
