"""The keys of all identity providers of a policy, which changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from sealbus.fetching import fetch
from sealbus_broker.gate.identities import Identity, Provider
from sealbus_broker.oidc.keys import Keys
from sealbus_broker.oidc.provider_keys import Fetch, ProviderKeys


class Providers:
    """Keeps one :class:`ProviderKeys` for each provider. A provider whose entry has changed is
    another one, and begins without keys."""

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, fetch: Fetch = fetch
    ) -> None:
        """
        Args:
            monotonic: A clock that is never set, in seconds.
            fetch: Fetches a document.
        """
        self._monotonic = monotonic
        self._fetch = fetch
        self._known: dict[Provider, ProviderKeys] = {}

    def fresh(self, identities: Iterable[Identity]) -> dict[Provider, Keys]:
        """Return the keys that are fresh, and ask nobody."""
        return {one.provider: self._of(one.provider).fresh for one in identities}

    async def keys_of(
        self, identities: Iterable[Identity], key_id: str | None = None
    ) -> dict[Provider, Keys]:
        """Return the keys of the providers of ``identities``.

        All are asked at the same time, for :data:`~sealbus_broker.oidc.provider_keys.ASK_S` at
        most.

        Args:
            identities: The identities of one bot, or of all.
            key_id: The key that somebody needs.
        """
        providers = list(dict.fromkeys(one.provider for one in identities))
        asked = (self._of(one).get(key_id) for one in providers)
        found = await asyncio.gather(*asked)
        return dict(zip(providers, found, strict=True))

    def failures(self, identities: Iterable[Identity]) -> list[str]:
        """Return why providers of ``identities`` have failed, as far as they have."""
        providers = dict.fromkeys(one.provider for one in identities)
        return [failure for one in providers if (failure := self._of(one).failure) is not None]

    async def keep(self, identities: Iterable[Identity]) -> None:
        """Keep only the providers of ``identities``, which are all that the policy has."""
        wanted = {one.provider for one in identities}
        for provider in [one for one in self._known if one not in wanted]:
            await self._known.pop(provider).close()

    def _of(self, provider: Provider) -> ProviderKeys:
        if provider not in self._known:
            made = ProviderKeys(provider, monotonic=self._monotonic, fetch=self._fetch)
            self._known[provider] = made
        return self._known[provider]
