"""A login: what a client sends to nats-server, and how it answers the challenge."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

from sealbus.protocol.admission import AdmissionText
from sealbus.protocol.keys import SigningKey
from sealbus.protocol.seal import sign_connect


async def ignore(_: Exception) -> None:
    """Do nothing: the attempt fails with the same error."""


def login_options(
    said: AdmissionText,
    key: SigningKey,
    *,
    inbox_prefix: str,
    attempt_s: float,
    on_error: Callable[[Exception], Awaitable[None]] = ignore,
) -> dict[str, Any]:
    """nats-py's options for one attempt to log in.

    Args:
        said: The admission text.
        key: The key that it names. It signs the challenge, and the text.
        inbox_prefix: The beginning of the subjects on which answers come. nats-py's own is allowed
            to nobody.
        attempt_s: How long the attempt may take.
        on_error: Told what nats-server complains of.
    """
    admission = said.encode()

    def answer(challenge: str) -> bytes:
        return base64.b64encode(sign_connect(key, challenge.encode(), admission.encode()))

    return {
        "name": said.client_name,
        "token": admission,
        "signature_cb": answer,
        "allow_reconnect": False,
        "connect_timeout": attempt_s,
        "inbox_prefix": inbox_prefix,
        "error_cb": on_error,
    }
