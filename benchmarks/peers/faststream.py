"""FastStream with Pydantic on the nats-server of the round's bus.

It is durable, the receiver checks the schema, and there are no signatures.
"""

# No `from __future__ import annotations`: FastStream and Pydantic read annotations at run time.

from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Final, Literal

from faststream.nats import ConsumerConfig, JStream, NatsBroker, PullSub
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.peer import Order
from benchmarks.peers.nats import ASK_S, FETCH, OnServer
from benchmarks.workload import reply

STREAM: Final = "FASTSTREAM"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Item(_Strict):
    """A line of an order."""

    sku: Annotated[str, Field(pattern="^[A-Z]{3}-[0-9]{4}$")]
    quantity: Annotated[int, Field(ge=1, le=100)]
    unit_price_cents: Annotated[int, Field(ge=1, le=10_000_000)]


class Address(_Strict):
    """The place of delivery."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    street: Annotated[str, Field(min_length=1, max_length=200)]
    city: Annotated[str, Field(min_length=1, max_length=100)]
    postcode: Annotated[str, Field(min_length=2, max_length=12)]
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")]


class OrderModel(_Strict):
    """The rules of ``workload.ORDER_SCHEMA``, for Pydantic."""

    order_id: Annotated[str, Field(pattern="^ord-[0-9]{6}$")]
    customer: Annotated[str, Field(pattern="^cus-[0-9]{4}$")]
    placed_at: datetime
    currency: Literal["EUR", "GBP", "USD"]
    items: Annotated[list[Item], Field(min_length=1, max_length=500)]
    ship_to: Address | None = None
    note: Annotated[str, Field(max_length=500)] = ""


class Answer(_Strict):
    """The rules of ``workload.REPLY_SCHEMA``."""

    order_id: Annotated[str, Field(pattern="^ord-[0-9]{6}$")]
    accepted: bool


class FastStreamSender:
    """A broker for each sender. FastStream calls its connection a broker."""

    def __init__(self) -> None:
        self._brokers: list[NatsBroker] = []

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Connect."""
        for _ in range(pairs):
            broker = _broker(setup)
            await broker.connect()
            self._brokers.append(broker)

    async def send(self, pair: int, order: Order) -> None:
        """Returns with the server's acknowledgement."""
        await self._brokers[pair].publish(order, f"bench.fast.{pair}", stream=STREAM, timeout=ASK_S)

    async def ask(self, pair: int, order: Order) -> None:
        """A core NATS request."""
        answer = await self._brokers[pair].request(order, f"bench.ask.{pair}", timeout=ASK_S)
        assert Answer.model_validate_json(answer.body).accepted

    async def close(self) -> None:
        """Disconnect."""
        for broker in self._brokers:
            await broker.stop()


class FastStreamReceiver:
    """Durable pull subscribers, and subscribers that answer.

    The messages of a fetched batch are handled at once.
    """

    def __init__(self) -> None:
        self._brokers: list[NatsBroker] = []

    async def open(self, setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
        """Connect, with both handlers in place."""
        for pair in range(pairs):
            broker = _broker(setup)
            self._brokers.append(broker)
            _handle(broker, pair, received)
            await broker.start()

    async def close(self) -> None:
        """Disconnect."""
        for broker in self._brokers:
            await broker.stop()


def _handle(broker: NatsBroker, pair: int, received: Callable[[], None]) -> None:
    @broker.subscriber(
        f"bench.fast.{pair}",
        stream=JStream(STREAM, declare=False),
        durable=f"r{pair}",
        config=ConsumerConfig(max_ack_pending=10_000),
        pull_sub=PullSub(batch_size=FETCH, timeout=1.0),
    )
    async def take(order: OrderModel) -> None:
        del order
        received()

    @broker.subscriber(f"bench.ask.{pair}")
    async def answer(order: OrderModel) -> dict[str, Any]:
        return reply({"order_id": order.order_id})


def _broker(setup: dict[str, Any]) -> NatsBroker:
    return NatsBroker(setup["url"], nkeys_seed_str=setup["seed"], pending_size=2**23, logger=None)


class FastStream(OnServer):
    """FastStream."""

    name: ClassVar[str] = "faststream"
    title: ClassVar[str] = (
        f"FastStream {version('faststream')} on JetStream, Pydantic {version('pydantic')}"
    )
    promises: ClassVar[str] = "durable, schema-checked by the receiver"
    depths: ClassVar[tuple[int, ...]] = (16, 64, 256)
    sender: ClassVar[type[FastStreamSender]] = FastStreamSender
    receiver: ClassVar[type[FastStreamReceiver]] = FastStreamReceiver
    stream: ClassVar[str | None] = STREAM
    subjects: ClassVar[str] = "bench.fast.*"
