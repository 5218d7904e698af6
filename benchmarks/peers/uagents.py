"""uAgents: signed envelopes from agent to agent, each in an HTTP request of its own.

An agent's address is its secp256k1 key. It signs an envelope with the order as JSON, and posts it
to the endpoint of the other agent. There uAgents' server verifies the signature, answers 200 and
queues the message for the agent. The agent parses it as the model whose digest the envelope names.
A question is an envelope, and so is its answer.

Nothing leaves the machine. Addresses are looked up in a table. All else that an agent does at its
start is turned off, by its settings or, if there is no setting, by :class:`LocalAgent`.
"""

# No `from __future__ import annotations`: uAgents' models are Pydantic's, which reads annotations
# at run time.

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import orjson
import uagents.agent
import uagents.asgi
from uagents import Agent, Context, Field, Model
from uagents.communication import send_message_raw
from uagents.resolver import RulesBasedResolver
from uagents_core.identity import Identity
from uagents_core.types import DeliveryStatus, MsgStatus

from benchmarks.bus import free_port
from benchmarks.peer import Order
from benchmarks.workload import reply

START_S: Final = 15.0
ANSWER_S: Final = 10

# A new agent asks the ledger for the version of the contract that lists agents. It also serves on
# all addresses of the machine. No setting changes either.
uagents.agent.get_almanac_contract = lambda _network: None
uagents.asgi.HOST = "127.0.0.1"


class _Strict(Model):
    class Config:
        extra = "forbid"


class Item(_Strict):
    """A line of an order."""

    sku: str = Field(regex="^[A-Z]{3}-[0-9]{4}$")
    quantity: int = Field(ge=1, le=100)
    unit_price_cents: int = Field(ge=1, le=10_000_000)


class Address(_Strict):
    """The place of delivery."""

    name: str = Field(min_length=1, max_length=100)
    street: str = Field(min_length=1, max_length=200)
    city: str = Field(min_length=1, max_length=100)
    postcode: str = Field(min_length=2, max_length=12)
    country: str = Field(regex="^[A-Z]{2}$")


class OrderMessage(_Strict):
    """The rules of ``workload.ORDER_SCHEMA``, for uAgents."""

    order_id: str = Field(regex="^ord-[0-9]{6}$")
    customer: str = Field(regex="^cus-[0-9]{4}$")
    placed_at: datetime
    currency: Literal["EUR", "GBP", "USD"]
    items: list[Item] = Field(min_items=1, max_items=500)
    ship_to: Address | None = None
    note: str = Field("", max_length=500)


class Question(OrderMessage):
    """The same as a request, because uAgents distinguishes messages by their model."""


class Answer(_Strict):
    """The rules of ``workload.REPLY_SCHEMA``."""

    order_id: str = Field(regex="^ord-[0-9]{6}$")
    accepted: bool


ORDER_DIGEST: Final[str] = Model.build_schema_digest(OrderMessage)
"""Made once, and not for each message, because it takes longer than to send one."""


class LocalAgent(Agent):
    """An agent that stays on this machine."""

    def __init__(self, seed: str, port: int, resolver: RulesBasedResolver) -> None:
        super().__init__(
            seed=seed,
            port=port,
            resolve=resolver,
            loop=asyncio.get_running_loop(),
            log_level=logging.WARNING,
            enable_agent_inspector=False,
            report_events=False,
            mark_inactive_on_shutdown=False,
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._serving: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Start. Returns when it serves."""
        others = asyncio.all_tasks()
        self.setup()
        self._tasks = asyncio.all_tasks() - others
        self._serving = asyncio.create_task(self.start_server())
        async with asyncio.timeout(START_S):
            while self._server.server is None or not self._server.server.started:
                if self._serving.done():
                    self._serving.result()
                    raise RuntimeError("the agent's server has ended")
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        """Stop. (``run_async`` would do it, but it cancels all tasks of the process.)"""
        self._dispatcher.unregister(self.address, self)
        if self._serving is not None:
            self._server.server.should_exit = self._server.server.force_exit = True
            await self._serving
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask(self, address: str, question: Question) -> Answer:
        """Send an envelope, and wait for one."""
        context = self._build_context()  # its own session, which finds the answer
        found: tuple[Answer | None, MsgStatus] = await context.send_and_receive(
            address, question, response_type=Answer, timeout=ANSWER_S
        )
        answer, status = found
        if answer is None:
            raise RuntimeError(status.detail)
        return answer

    def start_registration_loop(self) -> None:
        """Do not register anywhere."""

    async def _update_agent_status(self, active: bool) -> None:
        """Do not announce that it runs."""


def resolver(setup: dict[str, Any]) -> RulesBasedResolver:
    """The table of all agents' endpoints."""
    return RulesBasedResolver(
        {address(seed): f"http://127.0.0.1:{port}/submit" for seed, port in setup["ports"].items()}
    )


def address(seed: str) -> str:
    """The agent's address, which is its public key."""
    text: str = Identity.from_seed(seed, 0).address
    return text


class UAgentsSender:
    """An agent for each sender."""

    def __init__(self) -> None:
        self._agents: list[LocalAgent] = []
        self._identities: list[Identity] = []
        self._receivers: list[str] = []
        self._resolver: RulesBasedResolver | None = None
        self._stack = AsyncExitStack()

    async def open(self, setup: dict[str, Any], pairs: int) -> None:
        """Start the agents. They also serve, because they get the answers."""
        self._resolver = resolver(setup)
        for pair in range(pairs):
            seed = setup["senders"][pair]
            agent = LocalAgent(seed, setup["ports"][seed], self._resolver)
            self._stack.push_async_callback(agent.end)
            await agent.begin()
            self._agents.append(agent)
            self._identities.append(Identity.from_seed(seed, 0))
            self._receivers.append(address(setup["receivers"][pair]))

    async def send(self, pair: int, order: Order) -> None:
        """Return when the other agent has answered the post.

        It has then verified the envelope and queued the message. This calls uAgents' function for
        sending, because an agent's context sends one envelope at a time.
        """
        status = await send_message_raw(
            self._receivers[pair],
            ORDER_DIGEST,
            orjson.dumps(order).decode(),
            sender=self._identities[pair],
            resolver=self._resolver,
        )
        if not isinstance(status, MsgStatus) or status.status is not DeliveryStatus.DELIVERED:
            raise RuntimeError(str(status))

    async def ask(self, pair: int, order: Order) -> None:
        """Use the agent's context."""
        assert (await self._agents[pair].ask(self._receivers[pair], Question(**order))).accepted

    async def close(self) -> None:
        """Stop the agents."""
        await self._stack.aclose()


class UAgentsReceiver:
    """An agent for each receiver."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def open(self, setup: dict[str, Any], pairs: int, received: Callable[[], None]) -> None:
        """Start the agents."""

        async def take(_: Context, __: str, ___: OrderMessage) -> None:
            received()

        async def answer(context: Context, sender: str, question: Question) -> None:
            await context.send(sender, Answer(**reply({"order_id": question.order_id})))

        table = resolver(setup)
        for pair in range(pairs):
            seed = setup["receivers"][pair]
            agent = LocalAgent(seed, setup["ports"][seed], table)
            agent.on_message(OrderMessage)(take)
            agent.on_message(Question, replies=Answer)(answer)
            self._stack.push_async_callback(agent.end)
            await agent.begin()

    async def close(self) -> None:
        """Stop the agents."""
        await self._stack.aclose()


class UAgents:
    """Nothing is in the middle."""

    name: ClassVar[str] = "uagents"
    title: ClassVar[str] = (
        f"uAgents {version('uagents')}: signed envelopes over HTTP, ecdsa {version('ecdsa')}"
    )
    promises: ClassVar[str] = (
        "signed end to end, verified and queued by the receiver, which checks the model later"
    )
    can_ask: ClassVar[bool] = True
    depths: ClassVar[tuple[int, ...]] = (1, 4, 16)
    sender: ClassVar[type[UAgentsSender]] = UAgentsSender
    receiver: ClassVar[type[UAgentsReceiver]] = UAgentsReceiver

    async def start(self, folder: Path, pairs: int) -> dict[str, Any]:
        """Make the keys' seeds, and choose the agents' ports."""
        del folder
        sides = {
            side: [os.urandom(16).hex() for _ in range(pairs)] for side in ("senders", "receivers")
        }
        return {**sides, "ports": {seed: free_port() for seeds in sides.values() for seed in seeds}}

    def processes(self) -> dict[str, list[int]]:
        """There are no processes in the middle."""
        return {}

    async def stop(self) -> None:
        """There is nothing to end."""
