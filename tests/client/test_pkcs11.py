"""The example of a signer in a hardware module, with SoftHSM in its place.

It needs the package softhsm2, which the CI workflow installs, and python-pkcs11.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sealbus import Credentials, CredentialsError
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.seal import Verifier
from sealbus.protocol.sender_links import SenderLink, parse_link

pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
# Without the tool, nobody searches whole folders: each worker of the tests reads this file.
MODULES = [
    path
    for folder in ("/usr/lib", "/usr/local/lib", "/opt/homebrew/lib")
    if shutil.which("softhsm2-util") is not None
    for path in Path(folder).glob("**/libsofthsm2.so")
]
pytestmark = pytest.mark.skipif(not MODULES, reason="SoftHSM is not installed")
PIN = "648219"
ED25519 = "1.3.101.112"


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the module's library. Its token has a new key, which was made inside it."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    making = ["softhsm2-util", "--init-token", "--free", "--label", "bots"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOFTHSM2_CONF", str(folder / "conf"))
        subprocess.run([*making, "--so-pin", PIN, "--pin", PIN], check=True, capture_output=True)
        token = pkcs11.lib(str(MODULES[0])).get_token(token_label="bots")
    from pkcs11.util.ec import encode_named_curve_parameters

    with token.open(rw=True, user_pin=PIN) as session:
        session.create_domain_parameters(
            pkcs11.KeyType.EC_EDWARDS,
            {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(ED25519)},
            local=True,
        ).generate_keypair(
            mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label="order"
        )
    return str(MODULES[0])


def test_module_certifies_session_keys(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from examples.pkcs11_signer import ModuleKey, open_bot

    (tmp_path / "pin").write_text(f"{PIN}\n")
    monkeypatch.setenv("PKCS11_MODULE", module)
    monkeypatch.setenv("PKCS11_TOKEN", "bots")
    monkeypatch.setenv("PKCS11_PIN_FILE", str(tmp_path / "pin"))
    public = ModuleKey(module, "bots", PIN, "order").public
    path = tmp_path / "order.toml"
    path.write_text(printed_fields())
    path.chmod(0o600)
    credentials = open_bot(str(path)).credentials
    key = credentials.new_session_key(1_000)
    certificate = Certificate.decode(key.certificate)
    assert certificate.enrolled == public.raw
    assert certificate.holds(Verifier(), bus="shop", bot="order", key=key.key.public.raw)
    new = SigningKey.generate(KeyKind.BOT).public
    link = SenderLink.decode(parse_link(credentials.sign_link(new.text)))
    assert link.old == public.raw
    assert link.holds(Verifier(), bus="shop", bot="order", new=new.raw)
    assert PIN not in repr(credentials)
    path.write_text(path.read_text() + f"ssh_agent = {json.dumps(public.text)}\n")
    with pytest.raises(CredentialsError, match="has ssh_agent, and the program gives a signer"):
        open_bot(str(path))


def printed_fields() -> str:
    """What `sealbus keys enrol` prints for the key of a module."""
    key = SigningKey.generate(KeyKind.BOT)
    bus_keys = frozenset([SigningKey.generate(KeyKind.BUS).public.raw])
    made = Credentials("shop", "order", key, ("nats://127.0.0.1:4222",), bus_keys)
    return made.text("ssh_agent", None)
