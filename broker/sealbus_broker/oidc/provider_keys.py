"""The keys of one identity provider, kept up to date while logins wait for them.

How it works. The provider's discovery document (OpenID Connect Discovery 1.0) says where its key
set is. Both are fetched by HTTPS with a bound on time and size (:mod:`sealbus.fetching`), by one
task at a time, which all logins share. The keys are in one of these states:

===== ============================================================ ================================
state meaning                                                      left for
===== ============================================================ ================================
none  there are no keys: nothing was fetched yet, or too long ago  fresh, by a fetch that succeeds
fresh the keys are at most :data:`FRESH_S` old                     old
old   the keys are at most :data:`KEEP_S` old. They count only     fresh; none
      where the provider cannot be asked
===== ============================================================ ================================

A login by a token that holds with fresh keys waits for nothing. Any other asks for a fetch where
the keys are not fresh, or lack the key that its token names, and waits for :data:`ASK_S`. The fetch
goes on after that, for the next login. There is one fetch in :data:`COOLDOWN_S`, so tokens that
name invented keys cost the provider next to nothing.

A provider that fails is named in the log, with the cause, and once more when it answers again. On a
lost connection the fetch fails, and the state stays as it is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from sealbus.errors import InvalidInput, Malformed
from sealbus.fetching import FetchFailed, HttpAnswer, check_https, fetch
from sealbus.supervision import end, kind, spawn
from sealbus_broker.gate.identities import Provider
from sealbus_broker.logger import get_logger
from sealbus_broker.oidc.json_object import read_object
from sealbus_broker.oidc.keys import Keys, read_keys

log = get_logger(__name__)

DISCOVERY: Final = "/.well-known/openid-configuration"
"""Behind the issuer, the path of its discovery document."""

MAX_DOCUMENT_BYTES: Final = 256 * 1024
"""The largest document. Key sets have some KiB."""

FETCH_S: Final = 5.0
"""How long one document may take, from the name lookup to the last byte."""

ASK_S: Final = 1.0
"""How long a login waits for a fetch: half of the two seconds that it has in all."""

COOLDOWN_S: Final = 5.0
"""The least time between two fetches. A provider that signs with a new key at once keeps its
holders waiting for that long."""

FRESH_S: Final = 300.0
"""How long keys count without a question. A key that the provider has withdrawn counts for that
long."""

KEEP_S: Final = 3600.0
"""How long keys count where the provider cannot be asked. Whoever can cut the relay off from the
provider can keep a withdrawn key alive for that long."""


class Fetch(Protocol):
    """Fetches a document: :func:`sealbus.fetching.fetch`."""

    def __call__(
        self, url: str, *, deadline_s: float, most: int, ca: Path | None
    ) -> Awaitable[HttpAnswer]:
        """Return the answer, or raise :class:`FetchFailed`."""


class ProviderKeys:
    """The keys of one provider. The module names its states."""

    def __init__(
        self,
        provider: Provider,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        fetch: Fetch = fetch,
    ) -> None:
        """Begin in the state *none*. Nothing is fetched before :meth:`get`.

        Args:
            provider: The provider.
            monotonic: A clock that is never set, in seconds.
            fetch: Fetches a document.
        """
        self._provider = provider
        self._monotonic = monotonic
        self._fetch = fetch
        self._keys: Keys = {}
        self._fetched_at: float | None = None
        """When the keys were asked for. ``None``: never."""
        self._tried_at: float | None = None
        """When the last fetch began."""
        self._fetching: asyncio.Task[None] | None = None
        """The fetch that is under way."""
        self._failure: str | None = None
        """Why the last fetch failed."""

    async def get(self, key_id: str | None = None) -> Keys:
        """Return the keys that count, after a fetch if one is due. Waits :data:`ASK_S` at most.

        Args:
            key_id: The key that somebody needs. ``None``: none in particular.
        """
        if self._is_due(key_id):
            self._begin()
        if self._fetching is not None and not self._may_do_without(key_id):
            await asyncio.wait([self._fetching], timeout=ASK_S)
        return self._keys if self._age() <= KEEP_S else {}

    @property
    def fresh(self) -> Keys:
        """The keys, if they are fresh."""
        return self._keys if self._age() <= FRESH_S else {}

    @property
    def failure(self) -> str | None:
        """Why the last fetch failed, or ``None``."""
        return self._failure

    async def close(self) -> None:
        """Give up a fetch that is under way."""
        if self._fetching is not None:
            await end(self._fetching)

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._monotonic() - self._fetched_at

    def _may_do_without(self, key_id: str | None) -> bool:
        """Whether the keys are good as they are."""
        return self._age() <= FRESH_S and (key_id is None or key_id in self._keys)

    def _is_due(self, key_id: str | None) -> bool:
        if self._fetching is not None or self._may_do_without(key_id):
            return False
        return self._tried_at is None or self._monotonic() - self._tried_at >= COOLDOWN_S

    def _begin(self) -> None:
        self._tried_at = self._monotonic()
        self._fetching = spawn(self._renew(self._tried_at), f"keys of {self._provider.name}")
        self._fetching.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._fetching is task:
            self._fetching = None

    async def _renew(self, began: float) -> None:
        name = self._provider.name
        try:
            keys = await self._load()
        except (FetchFailed, Malformed, InvalidInput) as error:
            self._fail(error.what)
        except Exception as error:  # noqa: BLE001  # whatever a provider's bytes bring about
            self._fail(f"its answer is not understood: {kind(error)}")
        else:
            self._keys = keys
            self._fetched_at = began
            if self._failure is not None:
                log.info("provider.back", provider=name)
            self._failure = None

    def _fail(self, why: str) -> None:
        if self._failure != why:
            log.warning(
                "provider.failed", provider=self._provider.name, because=why, **self._effect()
            )
        self._failure = why

    def _effect(self) -> dict[str, str]:
        kept = self._age() <= KEEP_S
        then = "the keys that it had count for now" if kept else "nobody can log in by its tokens"
        return {"then": then}

    async def _load(self) -> Keys:
        """Fetch both documents.

        Raises:
            FetchFailed, Malformed, InvalidInput: One of them cannot be had, or used.
        """
        provider = self._provider
        ask = partial(
            self._fetch,
            deadline_s=FETCH_S,
            most=MAX_DOCUMENT_BYTES,
            ca=Path(provider.ca) if provider.ca is not None else None,
        )
        where = provider.issuer.rstrip("/") + DISCOVERY
        document = read_object(_body(await ask(where), where), "the discovery document")
        # Otherwise a provider could answer for another one.
        if document.get("issuer") != provider.issuer:
            raise Malformed(f"{where} is another issuer's document")
        place = document.get("jwks_uri")
        if not isinstance(place, str):
            raise Malformed(f"{where} has no jwks_uri")
        check_https(place, "jwks_uri")
        return read_keys(_body(await ask(place), place), provider.algorithm)


def _body(answer: HttpAnswer, where: str) -> bytes:
    if answer.status != 200:
        raise FetchFailed(f"{where} answered with the status {answer.status}")
    return answer.body
