"""Another process learns the verdict on a message by its nonce."""

from __future__ import annotations

import pytest

from sealbus import Reason, Refused, Unresolved
from tests.e2e.shop import Shop, order
from tests.waiting import PATIENCE_S, until


async def test_another_process_finds_out_by_the_nonce(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def accepted() -> bool:
        return await shop.last("ACCEPTED") == 2  # the genesis, and this message

    async with shop.bot("order") as deaf:
        monkeypatch.setattr(deaf._publisher, "receive", lambda *_: None)  # its receipts are lost
        with pytest.raises(Unresolved) as unresolved:
            await deaf.publish("orders.placed", order(1), timeout=0.5)
        await until(accepted, "the message is accepted")
    nonce = unresolved.value.nonce
    async with shop.bot("order") as other:
        stamp = await other.publish("orders.placed", order(1), nonce=nonce, timeout=PATIENCE_S)
        assert stamp.nonce == nonce
        with pytest.raises(Refused) as changed:
            await other.publish("orders.placed", order(2), nonce=nonce, timeout=PATIENCE_S)
    assert changed.value.reason is Reason.NONCE_REUSED
    assert await accepted()
