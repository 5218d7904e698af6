"""The sources of tokens of a bot without a key, and what each error says."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sealbus import Credentials, CredentialsError
from sealbus.errors import InvalidInput
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_TOKEN_BYTES
from sealbus.tokens import (
    ClientCredentials,
    NoKey,
    TokenFile,
    TokenFunction,
    check_token,
    read_source,
)
from tests.oidc.issuer import CLIENT, TOKEN, Issuer, encode, reply

pytestmark = pytest.mark.slow

BUS_KEY = SigningKey.generate(KeyKind.BUS).public.text
SERVER = "tls://bus.example.com:4222"


def a_token(**claims: Any) -> str:
    """One whose signature nobody could verify."""
    payload = {"exp": int(time.time()) + 300, **claims}
    return ".".join(
        encode(part) for part in (b'{"alg":"RS256"}', json.dumps(payload).encode(), b"x")
    )


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


# ---- a file ------------------------------------------------------------------------------------


async def test_file_is_read_anew_each_time(tmp_path: Path) -> None:
    first, second = a_token(n=1), a_token(n=2)
    source = TokenFile(secret(tmp_path / "token", f"{first}\n"))
    assert await source.get() == first
    secret(tmp_path / "token", second)
    assert await source.get() == second


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is missing, or is not a text"),
        ("hello", "is not a signed token (JWT)"),
        ("a.b.c.d.e", "is not a signed token (JWT)"),
        (a_token() + ".", "is not a signed token (JWT)"),
        (a_token(exp=1_700_000_000), " s ago"),
        (a_token(more="x" * MAX_TOKEN_BYTES), f"at most {MAX_TOKEN_BYTES}"),
        (a_token(more="x" * 5 * MAX_TOKEN_BYTES), "is larger than"),
        ("\udcff", "is not UTF-8 text"),
    ],
    # A token has the time in it, and each process of the tests has to find the same names.
    ids=["empty", "a word", "five parts", "a dot too much", "over", "large", "huge", "no text"],
)
async def test_unusable_file_is_named_and_not_shown(
    tmp_path: Path, content: str, told: str
) -> None:
    path = secret(tmp_path / "token", "")
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(CredentialsError) as error:
        await TokenFile(path).get()
    said = f"{error.value} {error.value.hint}"
    assert told in said
    assert str(path) in said
    assert all(part not in said for part in content.split(".") if len(part) > 8)


async def test_missing_and_exposed_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="cannot be read") as error:
        await TokenFile(tmp_path / "token").get()
    assert "projected volume" in str(error.value.hint)
    path = secret(tmp_path / "token", a_token())
    path.chmod(0o644)
    with pytest.raises(CredentialsError, match="can be read by others"):
        await TokenFile(path).get()


def test_token_just_over_is_left_to_the_relay() -> None:
    """This machine's clock may be wrong, and the relay has the last word."""
    text = a_token(exp=int(time.time()) - 60)
    assert check_token(text, "it") == text


# ---- a function --------------------------------------------------------------------------------


async def test_functions_of_each_kind_give_tokens() -> None:
    token = a_token()
    threads: list[str] = []

    def plain() -> str:
        threads.append(threading.current_thread().name)
        return token

    async def begins() -> str:
        return token

    def returns() -> Awaitable[str]:
        return begins()

    for call in (plain, begins, returns):
        assert await TokenFunction(call).get() == token
    assert threads != [threading.main_thread().name]


async def test_failure_of_a_function_shows_no_secret() -> None:
    def fails() -> str:
        raise ValueError("s3cr3t")

    with pytest.raises(CredentialsError, match="the function for tokens failed: ValueError") as one:
        await TokenFunction(fails).get()
    assert "s3cr3t" not in f"{one.value} {one.value.hint}"


async def test_function_may_raise_a_sentence() -> None:
    def fails() -> str:
        raise CredentialsError("the vault is closed", hint="open it")

    with pytest.raises(CredentialsError, match="the vault is closed"):
        await TokenFunction(fails).get()


async def test_function_that_gives_no_text_is_named() -> None:
    call: Any = lambda: b"bytes"  # noqa: E731
    with pytest.raises(CredentialsError, match="the token that the program gives is missing, or"):
        await TokenFunction(call).get()


# ---- client credentials ------------------------------------------------------------------------


def at(issuer: Issuer, tmp_path: Path, *, given: str = CLIENT[1], **more: Any) -> ClientCredentials:
    path = secret(tmp_path / "secret", f"{given}\n")
    fields = {"ca": issuer.ca, "scope": "bus", "audience": "sealbus:shop", **more}
    return ClientCredentials(issuer.url + TOKEN, CLIENT[0], path, **fields)


async def test_endpoint_gives_a_token(issuer: Issuer, tmp_path: Path) -> None:
    token = await at(issuer, tmp_path).get()
    assert token.count(".") == 2


async def test_wrong_secret_is_explained_and_not_shown(issuer: Issuer, tmp_path: Path) -> None:
    source = at(issuer, tmp_path, given="another-s3cr3t")
    with pytest.raises(
        CredentialsError, match=r"gave no token: status 401 \(invalid_client\)"
    ) as e:
        await source.get()
    assert "another-s3cr3t" not in f"{e.value} {e.value.hint} {source!r}"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda h: reply(h, 200, b"{}"), "is missing, or is not a text"),
        (lambda h: reply(h, 200, b'{"access_token": "opaque"}'), "is not a signed token (JWT)"),
        (lambda h: reply(h, 200, b"<html>"), "is missing, or is not a text"),
        (lambda h: reply(h, 500, b"<b>s3cr3t</b>"), "status 500"),
        (lambda h: reply(h, 400, b'{"error": "s3cr3t%20x"}'), "status 400"),
        (lambda h: reply(h, 302, b"", Location="https://x.example"), "are not followed"),
        (lambda h: reply(h, 200, b" " * 70_000), "answered with more than 65536 bytes"),
    ],
)
async def test_odd_answer_is_explained(
    issuer: Issuer, tmp_path: Path, answer: Callable[[Any], None], told: str
) -> None:
    issuer.faults[TOKEN] = answer
    with pytest.raises(CredentialsError) as error:
        await at(issuer, tmp_path).get()
    assert told in str(error.value)
    assert "s3cr3t" not in f"{error.value} {error.value.hint}"


async def test_endpoint_that_is_not_trusted_gets_no_secret(issuer: Issuer, tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="its certificate is not trusted"):
        await at(issuer, tmp_path, ca=None).get()
    assert issuer.asked == []


# ---- credentials -------------------------------------------------------------------------------


def written(tmp_path: Path, oidc: str, **fields: str) -> Path:
    given = {"bus": '"shop"', "bot": '"order"', "servers": f'["{SERVER}"]', **fields}
    given.setdefault("bus_keys", f'["{BUS_KEY}"]')
    text = "".join(f"{name} = {value}\n" for name, value in given.items())
    return secret(tmp_path / "order.toml", f"{text}\n[oidc]\n{oidc}\n")


def test_file_names_a_token_file(tmp_path: Path) -> None:
    loaded = Credentials.load(written(tmp_path, 'token_file = "token"'))
    assert loaded.tokens == TokenFile(tmp_path / "token")
    assert isinstance(loaded.key, NoKey)


def test_file_names_an_endpoint(tmp_path: Path) -> None:
    oidc = (
        'token_url = "https://idp.example.com/token"\nclient_id = "order"\n'
        'client_secret_file = "secret"\nscope = "bus"\naudience = "a"\nca = "/etc/ca.pem"'
    )
    assert Credentials.load(written(tmp_path, oidc)).tokens == ClientCredentials(
        "https://idp.example.com/token",
        "order",
        tmp_path / "secret",
        "bus",
        "a",
        Path("/etc/ca.pem"),
    )


@pytest.mark.parametrize(
    ("oidc", "fields", "told"),
    [
        ("", {}, "oidc has no token_url"),
        ('token_fil = "a"', {}, "oidc has an unknown field 'token_fil'"),
        ("token_file = 7", {}, "oidc.token_file must be a text"),
        ('token_file = "a"\nclient_id = "b"', {}, "oidc has token_file and more"),
        ('token_url = "https://a.example"', {}, "oidc has no client_id"),
        (
            'token_url = "http://a.example"\nclient_id = "a"\nclient_secret_file = "b"',
            {},
            "oidc.token_url is not a URL that begins with https://",
        ),
        ('token_file = "~/token"', {}, "oidc.token_file begins with ~"),
        ('token_file = "a"', {"servers": '["nats://bus:4222"]'}, "its servers have no TLS"),
        (
            'token_file = "a"',
            {"seed": f'"{SigningKey.generate(KeyKind.BOT).seed_text}"'},
            "has [oidc] and seed",
        ),
    ],
)
def test_problem_of_a_file_is_named(
    tmp_path: Path, oidc: str, fields: dict[str, str], told: str
) -> None:
    with pytest.raises(CredentialsError) as error:
        Credentials.load(written(tmp_path, oidc, **fields))
    assert told in str(error.value)


def test_table_has_to_be_one() -> None:
    with pytest.raises(InvalidInput, match="oidc must be a table"):
        read_source("token", {}, Path())


def test_environment_names_a_token_file() -> None:
    variables = {
        "SEALBUS_BUS": "shop",
        "SEALBUS_BOT": "order",
        "SEALBUS_SERVERS": SERVER,
        "SEALBUS_BUS_KEYS": BUS_KEY,
        "SEALBUS_TOKEN_FILE": "/var/run/token",
    }
    assert Credentials.from_environment(variables).tokens == TokenFile(Path("/var/run/token"))


def from_oidc(**fields: Any) -> Credentials:
    given = {"bus": "shop", "bot": "order", "servers": [SERVER], "bus_keys": [BUS_KEY]}
    return Credentials.from_oidc(**{**given, "token": "/var/run/token", **fields})


def test_from_oidc_takes_a_path_or_a_function() -> None:
    assert from_oidc().tokens == TokenFile(Path("/var/run/token"))
    assert from_oidc(token=a_token).tokens == TokenFunction(a_token)
    assert from_oidc(ca="ca.pem").tls is not None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"servers": ["nats://bus:4222"]}, "its servers have no TLS"),
        ({"servers": []}, "servers must be a list of texts"),
        ({"bus_keys": ["U"]}, "public key (N…) is not"),
        ({"bot": "The Order"}, "bot is not a name"),
        ({"cert": "a.pem"}, "has cert and not cert_key"),
    ],
)
def test_from_oidc_names_what_is_wrong(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(CredentialsError) as error:
        from_oidc(**fields)
    assert told in str(error.value)


def test_credentials_without_a_key_say_so_where_one_is_needed() -> None:
    made = from_oidc()
    with pytest.raises(CredentialsError, match="order has no key of its own"):
        made.new_session_key(0)
    with pytest.raises(CredentialsError, match="is not in this process"):
        _ = made.key_in_memory
    assert "token" not in repr(made)


async def test_function_that_blocks_holds_up_no_event_loop() -> None:
    release = threading.Event()

    def blocks() -> str:
        release.wait()
        return a_token()

    asked = asyncio.create_task(TokenFunction(blocks).get())
    await asyncio.sleep(0)
    release.set()
    assert await asked
