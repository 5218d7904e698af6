"""The bus's own keys in one relay: the one that it seals with, those that it believes, and the one
with which its door certifies session keys.

How it works. :class:`RelayKeys` is a signer whose key changes. The parts of the relay hold it, and
know of no change. Two things can change it, and both are looked at every :data:`LOOK_S`:

* **The file** ``.sealbus/relay.toml``, into which ``sealbus keys rotate-bus`` writes the next key.
  A file that cannot be read, or has keys of another bus, changes nothing and is a problem.
* **The keyring** in the stream KEYRING (:mod:`sealbus.protocol.keyring`), which bots read. Where
  the file has more links, the relay stores them there. Where the stream has more, another relay has
  a newer file: this relay then believes the next key too. A list in the stream that contradicts the
  file is left alone, and is a problem: two files were made, or somebody has stolen a key. One that
  takes the place of this relay's own is replaced again.

The relay seals with the next key from the time in its link on, and not before the keyring in the
stream leads to it. So no bot meets a key that it cannot find. A relay whose only key ends leaves
NATS shortly before, and comes back when its file has the next key.

The session-issuer key of the file is in use once the policy has its public half, which ``sealbus
keys issuer`` writes after the private one. Until then the one before stays in use, as long as the
policy has that.

The relay's key may change between two batches, and not within one: nothing here runs while a part
seals. A look that fails, because NATS or a disk is away, is made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from sealbus.errors import Malformed
from sealbus.protocol.bus_keys import BusKeys, end_of
from sealbus.protocol.keyring import Link, open_keyring
from sealbus.protocol.keys import PublicKey, SigningKey
from sealbus.supervision import in_thread, pause, spawn
from sealbus.trust import follow
from sealbus_broker.errors import BusKeyEnded, SecretsUnusable, StreamsUnusable
from sealbus_broker.logger import get_logger
from sealbus_broker.nats.records import read_keyring, write_keyring
from sealbus_broker.policy.in_force import InForce
from sealbus_broker.policy.reader import time_text
from sealbus_broker.relay.problems import BusProblem, Level
from sealbus_broker.relay.secrets import BusSecrets
from sealbus_broker.relay.store.clocks import Apart

log = get_logger(__name__)

LOOK_S: Final = 2.0
"""The pause between two looks: like those at the folder."""

ASK_S: Final = 2.0
"""How long JetStream may take for one answer."""

READ_S: Final = 2.0
"""How long the disk may take for the file, which has a few kilobytes."""

LEAVE_MS: Final = 10_000
"""How long before the end of its only key a relay leaves NATS: longer than the pause and the
longest look, so that nothing is sealed after the end."""

ABOUT: Final = "bus-key"
"""The subject of the problems."""

_COPY: Final = "copy .sealbus/relay.toml here from the machine where `sealbus keys rotate-bus` ran"
_HINTS: Final = {
    "file": "put the bus's own file back; a relay with keys of another bus has to be started anew",
    "stream": "`sealbus keys rotate-bus` on one machine only, and copy its relay.toml to the"
    " others; if it ran only once, a bus key was stolen: make a new bus key and new credentials",
}


class RelayKeys:
    """Seals with the bus key of the time, and gives the policy the keys to believe."""

    def __init__(
        self,
        secrets: BusSecrets,
        in_force: InForce,
        *,
        now_ms: Callable[[], int],
        file: Path | None = None,
    ) -> None:
        """
        Args:
            secrets: The content of the file, which was just read.
            in_force: Holds the policy, by which stamps are believed.
            now_ms: The wall clock, in ms since 1970.
            file: The file to follow. ``None``: the secrets never change.
        """
        self._in_force = in_force
        self._now_ms = now_ms
        self._file = file
        self._state: object = None
        """The state of the file that was taken last."""
        self._reading: asyncio.Task[tuple[object, BusSecrets | None]] | None = None
        """A reading that is under way: a disk that is gone never answers."""
        self._secrets = secrets
        self._own: tuple[Link, ...] = secrets.chain
        """The links of the file."""
        self._stored: tuple[Link, ...] = ()
        """The links of the stream, as far as they agree with the file."""
        self._troubles: dict[str, str] = {}
        """The problems of the file and of the stream, by the name of the hint that helps."""
        self._key = secrets.bus
        self.session_issuer: SigningKey | None = secrets.session_issuer
        """Certifies session keys in exchange for tokens. ``None``: there is none."""
        self.trusted = BusKeys(in_force().bus_keys, {})
        """The keys whose stamps this relay believes."""
        self._choose()

    # ---- a signer --------------------------------------------------------------------------------

    @property
    def public(self) -> PublicKey:
        """The public half of the key in use."""
        return self._key.public

    def sign(self, message: bytes) -> bytes:
        """Sign with the key in use."""
        return self._key.sign(message)

    # ---- following -------------------------------------------------------------------------------

    async def run(
        self,
        nc: Client,
        apart: Apart,
        stopping: asyncio.Event,
        tell_door: Callable[[], Awaitable[None]],
    ) -> None:
        """Follow file and stream until ``stopping`` is set. Tell ``apart`` once the key has
        ended, and call ``tell_door`` once the session-issuer key has changed."""
        while not stopping.is_set():
            await pause(LOOK_S, until=stopping)
            before, issuer = self.public, self.session_issuer
            try:
                if await self.look(nc):
                    log.info("bus-key.published", text="bots learn the next bus key from now on")
            except (NatsError, OSError, TimeoutError, StreamsUnusable) as error:
                log.debug("bus-key.not-read", error=type(error).__name__)
            if self.public != before:
                log.info("bus-key.changed", text=f"sealing with the bus key {self.public.text} now")
            if self.session_issuer is not issuer:
                await tell_door()
                log.info("session-issuer.changed", text="certifying with another key now")
            if (ended := self.ended) is not None:
                apart.tell(ended)

    async def look(self, nc: Client) -> bool:
        """Read file and stream, store what the stream lacks, and choose the key. Return whether
        anything was stored.

        Raises:
            StreamsUnusable: JetStream refuses the list.
            nats.errors.Error: JetStream does not answer.
        """
        await self.read_file()
        stored = self._agreeing(await read_keyring(nc, ASK_S))
        if stored is None and self._own and self._stored == self._own:
            # It was this relay's list until now, and somebody has put another one into its place.
            log.error("bus-key.replaced", text="a strange list of bus keys is replaced again")
            stored = ()
        keyring = self._secrets.keyring
        lacks = keyring is not None and stored is not None and _last(stored) < _last(self._own)
        if keyring is not None and lacks:
            await write_keyring(nc, keyring, ASK_S)
            stored = self._own
        if stored is not None:
            self._stored = stored
        self._choose()
        return lacks

    async def read_file(self) -> None:
        """Read the file if it has changed."""
        if self._file is None:
            return
        if self._reading is None:
            self._reading = spawn(in_thread("sealbus keys", self._read), "reading the bus's keys")
        await asyncio.wait([self._reading], timeout=READ_S)
        if not self._reading.done():
            self._troubles["file"] = f"{self._file} cannot be read: its disk does not answer"
            return
        done, self._reading = self._reading, None
        try:
            state, secrets = done.result()
        except SecretsUnusable as error:
            self._troubles["file"] = error.what
            return
        if secrets is None:
            self._troubles.pop("file", None)
            return
        now = self._secrets
        same_logins = (secrets.relay.public, secrets.issuer.public) == (
            now.relay.public,
            now.issuer.public,
        )
        known = {key.raw for key in secrets.publics} | {link.old for link in secrets.chain}
        if not same_logins or now.bus.public.raw not in known:
            self._troubles["file"] = f"{self._file} has the keys of another bus"
            return
        self._troubles.pop("file", None)
        self._state, self._secrets, self._own = state, secrets, secrets.chain
        self._choose()

    def _read(self) -> tuple[object, BusSecrets | None]:
        """The state of the file, and its content if it has changed since it was taken."""
        assert self._file is not None
        try:
            found = self._file.stat()
        except OSError as error:
            raise SecretsUnusable(f"{self._file} cannot be read: {error.strerror}") from None
        state = found.st_mtime_ns, found.st_size, found.st_ino
        return state, None if state == self._state else BusSecrets.load(self._file)

    def _agreeing(self, data: bytes | None) -> tuple[Link, ...] | None:
        """The links of the stream. ``None``: they contradict the file, and are left alone."""
        self._troubles.pop("stream", None)
        if data is None:
            return ()
        try:
            links = open_keyring(data, self._in_force().bus)
        except Malformed as error:
            # Nobody can follow it, so the file's own takes its place.
            self._troubles["stream"] = f"the list in the stream KEYRING is none: {error.what}"
            return ()
        own = {link.number: link for link in self._own}
        keys = {key for link in links for key in (link.old, link.new)}
        if not keys & {key.raw for key in self._secrets.publics}:
            # It leads from none of this bus's keys, so no bot of it follows it. A bus that was
            # given new keys after a theft finds the list of before there.
            log.warning("bus-key.strange-list", text="ignored a list of other bus keys in KEYRING")
            return ()
        is_fork = any(own.get(link.number, link) != link for link in links)
        is_strange = self._secrets.bus.public.raw not in keys and _last(links) >= _last(self._own)
        if is_fork or is_strange:
            self._troubles["stream"] = (
                "the list of bus keys in the stream KEYRING contradicts that of this relay's file"
            )
            return None
        return links

    def _choose(self) -> None:
        """Choose the key to seal with, and the keys to believe."""
        secrets, now = self._secrets, self._now_ms()
        key = secrets.signing(now)
        is_found = _last(self._stored) >= _last(self._own)
        if key is secrets.next and not is_found and now <= self._own[-1].end_ms:
            key = secrets.bus  # bots do not find the next one yet
        self._key = key
        self._choose_issuer()
        links = max(self._own, self._stored, key=_last)
        trusted = follow(links, frozenset(one.raw for one in secrets.publics))
        if (trusted, trusted.ends) != (self.trusted, self.trusted.ends):
            self.trusted = trusted
            self._in_force.trust(trusted)

    def _choose_issuer(self) -> None:
        """Choose the key with which the door certifies."""
        new, now = self._secrets.session_issuer, self.session_issuer
        if new is not None and now is not None:
            published = self._in_force().session_issuers
            is_early = new.public.raw not in published and now.public.raw in published
            if is_early or new.public == now.public:
                return
        self.session_issuer = new

    # ---- its state -------------------------------------------------------------------------------

    @property
    def ended(self) -> BusKeyEnded | None:
        """The reason for which nothing can be sealed any more, if there is one."""
        end = self._end
        # With the next key, another look stores the list, and then that key is in use.
        if end is None or self._now_ms() + LEAVE_MS <= end or self._secrets.next is not None:
            return None
        return BusKeyEnded(
            f"the bus key of this relay ends at {time_text(end)}, and bots believe nothing that"
            " it seals after that",
            hint=_COPY,
        )

    def problems(self) -> list[BusProblem]:
        """The problems of the bus key, for the relay's health."""
        found = [
            BusProblem(Level.WARNING, f"{ABOUT}-{about}", what, _HINTS[about])
            for about, what in self._troubles.items()
        ]
        if self._end is not None and self._secrets.next is None:
            what = f"this relay has an old bus key, and is of no use after {time_text(self._end)}"
            found.append(BusProblem(Level.WARNING, ABOUT, what, _COPY))
        return found

    @property
    def _end(self) -> int | None:
        """The end of the key in use, if it has one."""
        return end_of(self.trusted, self._key.public.raw)


def _last(links: tuple[Link, ...]) -> int:
    """The number of the last link; 0 for none."""
    return links[-1].number if links else 0
