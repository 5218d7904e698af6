"""A bot whose key is in a hardware module, by way of PKCS#11.

It needs python-pkcs11 and the library of the module.
"""

import os
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import Attribute, Mechanism, ObjectClass

from sealbus import Bot, Credentials, CredentialsError
from sealbus.protocol.keys import KeyKind, PublicKey


class ModuleKey:
    """The Ed25519 key with the label ``label`` in a token of a PKCS#11 module."""

    def __init__(self, module: str, token: str, pin: str, label: str) -> None:
        self._module, self._token, self._pin, self._label = module, token, pin, label
        with self._session() as session:
            found = session.get_key(ObjectClass.PUBLIC_KEY, label=label)
            # DER: behind the head of an OCTET STRING are the 32 bytes of the key.
            self.public = PublicKey(found[Attribute.EC_POINT][-32:], KeyKind.BOT)

    def sign(self, message: bytes) -> bytes:
        try:
            # A session for each signature, so a module that was unplugged works again afterwards.
            with self._session() as session:
                key: Any = session.get_key(ObjectClass.PRIVATE_KEY, label=self._label)
                return bytes(key.sign(message, mechanism=Mechanism.EDDSA))
        except pkcs11.PKCS11Error as error:
            what = f"the module does not sign: {type(error).__name__}"
            raise CredentialsError(what, hint="is it plugged in?") from None

    def _session(self) -> pkcs11.Session:
        token = pkcs11.lib(self._module).get_token(token_label=self._token)
        return token.open(user_pin=self._pin)


def open_bot(path: str) -> Bot:
    """The bot of a credentials file that names no place of the key."""
    pin = Path(os.environ["PKCS11_PIN_FILE"]).read_text().strip()
    key = ModuleKey(os.environ["PKCS11_MODULE"], os.environ["PKCS11_TOKEN"], pin, "order")
    return Bot(Credentials.load(path, key=key))
