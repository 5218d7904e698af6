"""A bot's key in an ssh-agent: the real one, and agents that refuse, lie or hang."""

from __future__ import annotations

import base64
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealbus import Credentials, CredentialsError, InvalidInput, ssh_agent
from sealbus.protocol.certificate import Certificate
from sealbus.protocol.keys import KeyKind, SigningKey, verify
from sealbus.protocol.seal import Verifier
from sealbus.ssh_agent import MAX_ANSWER_BYTES, AgentKey, parse_openssh
from tests.client.ssh_agents import (
    REFUSAL,
    Answer,
    add,
    agent,
    blob,
    honest,
    listed,
    real_agent,
    signed,
    string,
)
from tests.waiting import until

KEY = SigningKey(bytes(range(32)), KeyKind.BOT)
OTHER = SigningKey(bytes(range(32, 64)), KeyKind.BOT)
LINE = f"ssh-ed25519 {base64.b64encode(blob(KEY)).decode()} a comment"

needs_agent = pytest.mark.skipif(
    None in (shutil.which("ssh-agent"), shutil.which("ssh-add")), reason="there is no ssh-agent"
)


def refused(answer: Answer, key: SigningKey = KEY, *, hangs: bool = False) -> str:
    with agent(answer, hangs=hangs) as path, pytest.raises(CredentialsError) as caught:
        AgentKey(key.public, path).sign(b"message")
    assert caught.value.hint
    return str(caught.value)


@needs_agent
def test_real_agent_certifies_session_keys(tmp_path: Path) -> None:
    with real_agent(tmp_path) as (path, line):
        public = parse_openssh(line)
        credentials = Credentials(
            "shop", "order", AgentKey(public, path), ("nats://a:4222",), frozenset()
        )
        key = credentials.new_session_key(1_000)
        certificate = Certificate.decode(key.certificate)
        fits = {"bus": "shop", "bot": "order", "key": key.key.public.raw}
        assert certificate.holds(Verifier(), **fits)  # type: ignore[arg-type]
        assert certificate.enrolled == public.raw
        with pytest.raises(CredentialsError, match=r"does not have the key .* \(it shows 1 keys\)"):
            AgentKey(KEY.public, path).sign(b"message")


@needs_agent
async def test_real_agent_forgets_a_key_after_its_time(tmp_path: Path) -> None:
    with real_agent(tmp_path) as (path, line):
        signer = AgentKey(parse_openssh(line), path)
        assert len(signer.sign(b"message")) == 64
        # Only now the key has a time. The agent counts whole seconds, so 1 s may be over at once.
        add(path, tmp_path, "-t", "1")

        def is_forgotten() -> bool:
            try:
                signer.sign(b"message")
            except CredentialsError:
                return True
            return False

        await until(is_forgotten, "the key's time is over")
        with pytest.raises(CredentialsError, match=r"does not have the key .* \(it shows 0 keys\)"):
            signer.sign(b"message")


def test_agent_of_the_tests_signs() -> None:
    with agent(honest(OTHER, KEY)) as path:
        signer = AgentKey(KEY.public, path)
        signature = signer.sign(b"message")
        assert verify(KEY.public.raw, b"message", signature)
        assert repr(signer) == f"AgentKey({KEY.public.text})"


def test_key_that_is_not_loaded_is_named() -> None:
    told = refused(honest(OTHER))
    assert f"does not have the key {KEY.public.text} (it shows 1 keys)" in told


def test_agent_that_declines_is_told_from_one_without_the_key() -> None:
    told = refused(lambda kind, _: listed(OTHER, KEY) if kind == 11 else REFUSAL)
    assert f"refuses to sign with {KEY.public.text}" in told


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (signed(bytes(63)), "it is not an Ed25519 signature"),
        (signed(bytes(65)), "it is not an Ed25519 signature"),
        (signed(bytes(64), b"ssh-rsa"), "it is not an Ed25519 signature"),
        (string(bytes([14])), "a field is longer than the answer"),
        (string(bytes([14]) + b"\xff\xff\xff\xff"), "a field is longer than the answer"),
        (string(bytes([14]) + string(b"") + b"x"), "a field is longer than the answer"),
        (signed(bytes(64))[:-1], "it ends early"),
        (b"\0\0", "it ends early"),
        (bytes(4), "it has 0 bytes; expected 1 to 262144"),
        ((MAX_ANSWER_BYTES + 1).to_bytes(4, "big"), "it has 262145 bytes"),
        (b"HTTP/1.1 400 Bad Request\r\n", "it has 1213486160 bytes"),
        (string(bytes([12]) + bytes(4)), "a field is longer than the answer"),
        (string(bytes([99]) + signed(bytes(64))[5:]), "it is not an Ed25519 signature"),
    ],
)
def test_answer_that_is_no_signature_is_explained(given: bytes, said: str) -> None:
    told: list[bytes | None] = [given, None]
    assert said in refused(lambda *_: told.pop(0))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (REFUSAL, "it is not a list of keys"),
        (string(bytes([12])), "it is not a list of keys"),
        (string(bytes([12]) + b"\xff\xff\xff\xff"), "a field is longer than the answer"),
        (string(bytes([12]) + b"\0\0\0\1" + string(b"x")), "a field is longer than the answer"),
        (b"", "it ends early"),
    ],
)
def test_list_that_is_none_is_explained(given: bytes, said: str) -> None:
    told: list[bytes | None] = [REFUSAL, given or None]
    assert said in refused(lambda *_: told.pop(0))


def test_longest_list_is_read_at_once() -> None:
    """65,000 empty keys, and a count that promises more."""
    most = bytes([12]) + b"\xff\xff\xff\xff"
    most += bytes(MAX_ANSWER_BYTES - len(most))
    began = time.monotonic()
    told = refused(lambda kind, _: string(most) if kind == 11 else REFUSAL)
    assert "a field is longer than the answer" in told
    assert time.monotonic() - began < 2


@settings(max_examples=60, deadline=None)
@given(first=st.binary(max_size=120), second=st.binary(max_size=120))
def test_any_answers_are_refused(first: bytes, second: bytes) -> None:
    told: list[bytes | None] = [string(first), string(second), None]
    refused(lambda *_: told.pop(0))


def test_silent_agent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_agent, "AGENT_S", 0.2)
    began = time.monotonic()
    told = refused(lambda *_: bytes(3), hangs=True)
    assert "has not answered within 0.2 s" in told
    assert time.monotonic() - began < 2


def test_agent_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for all of it, and not for each part."""
    monkeypatch.setattr(ssh_agent, "AGENT_S", 0.3)

    def answer(*_: object) -> bytes:
        time.sleep(0.2)
        return REFUSAL

    assert "has not answered within 0.3 s" in refused(answer)


def test_agent_that_has_ended_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "agent")
        with socket.socket(socket.AF_UNIX) as ended:
            ended.bind(path)
        with pytest.raises(CredentialsError, match=r"no ssh-agent answers .*: Connection refused"):
            AgentKey(KEY.public, path).sign(b"message")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nowhere/agent", "No such file or directory"),
        ("/nowhere/" + "x" * 200, "its path is not one of a socket"),
    ],
    ids=["missing", "long"],
)
def test_agent_that_is_away_is_named(path: str, why: str) -> None:
    with pytest.raises(CredentialsError, match=f"no ssh-agent answers at .*: {why}"):
        AgentKey(KEY.public, path).sign(b"message")


def test_socket_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        "SEALBUS_BUS": "shop",
        "SEALBUS_BOT": "order",
        "SEALBUS_SSH_AGENT": KEY.public.text,
        "SEALBUS_SERVERS": "nats://127.0.0.1:4222",
        "SEALBUS_BUS_KEYS": SigningKey.generate(KeyKind.BUS).public.text,
    }
    with pytest.raises(CredentialsError, match="ssh_agent needs SSH_AUTH_SOCK, which is not set"):
        Credentials.from_environment(fields)
    with agent(honest(KEY)) as path:
        loaded = Credentials.from_environment({**fields, "SSH_AUTH_SOCK": path})
        assert Certificate.decode(loaded.new_session_key(1).certificate).enrolled == KEY.public.raw
    wrong = {**fields, "SEALBUS_SSH_AGENT": KEY.seed_text}
    with pytest.raises(CredentialsError, match="got a seed") as caught:
        Credentials.from_environment(wrong)
    assert KEY.seed_text[2:] not in f"{caught.value!r}{caught.value.hint}"


@pytest.mark.parametrize("line", [LINE, LINE.rpartition(" a")[0], f"  {LINE}\n"])
def test_line_of_openssh_is_read(line: str) -> None:
    assert parse_openssh(line) == KEY.public


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "is not of the kind ssh-ed25519"),
        ("ssh-rsa AAAA", "is not of the kind ssh-ed25519"),
        ("sk-ssh-ed25519@openssh.com AAAA", "is not of the kind ssh-ed25519"),
        ("ssh-ed25519", "is damaged"),
        ("ssh-ed25519 AAAA", "is damaged"),
        (LINE.replace("AAAAC3Nz", "AAAAC3Nx"), "is damaged"),
        (LINE.replace(" a comment", "=="), "is damaged"),
        (LINE.replace("ssh-ed25519 ", "ssh-ed25519 !"), "is damaged"),
        (
            "ssh-ed25519 " + base64.b64encode(string(b"ssh-ed25519") + string(bytes(32))).decode(),
            "is not a valid Ed25519 key",
        ),
    ],
)
def test_line_that_is_no_ed25519_key_is_refused(line: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        parse_openssh(line)
    assert caught.value.hint
