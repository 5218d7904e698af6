"""A bot's credentials are read strictly and never shown."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealbus.credentials import MAX_FILE_BYTES, Credentials
from sealbus.errors import CredentialsError
from sealbus.nats.tls_files import TlsFiles
from tests.gate.world import BUS_KEY, FORGED_BUS_KEY, KEYS

KEY = KEYS["order"]
GOOD: dict[str, Any] = {
    "bus": "shop",
    "bot": "order",
    "seed": KEY.seed_text,
    "servers": ["nats://127.0.0.1:4222", "nats://[::1]:4222"],
    "bus_keys": [BUS_KEY.public.text, FORGED_BUS_KEY.public.text],
}


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def toml(**changes: Any) -> str:
    fields = {**GOOD, **changes}
    return "".join(
        f"{name} = {json.dumps(value)}\n" for name, value in fields.items() if value is not None
    )


def refusal(path: Path) -> str:
    with pytest.raises(CredentialsError) as refused:
        Credentials.load(path)
    shown = f"{refused.value!r} {refused.value} {refused.value.hint}"
    assert KEY.seed_text not in shown
    return shown


def test_credentials_have_the_content_of_the_file(tmp_path: Path) -> None:
    loaded = Credentials.load(write(tmp_path / "order.toml", toml()))
    assert (loaded.bus, loaded.bot, loaded.servers) == ("shop", "order", tuple(GOOD["servers"]))
    assert loaded.key_in_memory.seed_text == KEY.seed_text
    assert loaded.bus_keys == {BUS_KEY.public.raw, FORGED_BUS_KEY.public.raw}


def test_written_file_is_read_back_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "order.toml"
    given = Credentials(
        "shop", "order", KEY, ("nats://127.0.0.1:4222",), frozenset({BUS_KEY.public.raw})
    )
    given.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    loaded = Credentials.load(path)
    assert (loaded.bus, loaded.bot, loaded.servers, loaded.bus_keys) == (
        given.bus,
        given.bot,
        given.servers,
        given.bus_keys,
    )
    assert loaded.key_in_memory.seed_text == KEY.seed_text


def test_a_file_is_never_overwritten_nor_written_through_a_link(tmp_path: Path) -> None:
    given = Credentials(
        "shop", "order", KEY, ("nats://127.0.0.1:4222",), frozenset({BUS_KEY.public.raw})
    )
    path = write(tmp_path / "order.toml", "precious")
    link = tmp_path / "link.toml"
    link.symlink_to(tmp_path / "elsewhere.toml")
    for taken in (path, link):
        with pytest.raises(CredentialsError, match="exists already"):
            given.write(taken)
    assert path.read_text() == "precious"
    assert not (tmp_path / "elsewhere.toml").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o644, 0o601])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    assert f"can be read by others (mode {mode:04o})" in refusal(
        write(tmp_path / "order.toml", toml(), mode)
    )


def test_a_file_that_is_missing_a_folder_or_no_path_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "order.toml")
    (tmp_path / "folder").mkdir(mode=0o700)
    assert "cannot be read" in refusal(tmp_path / "folder")
    assert "cannot be read" in refusal(tmp_path / "nul\0byte")


def test_a_file_too_large_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "order.toml", toml() + "#" * MAX_FILE_BYTES)
    assert "not the file that is meant" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"bus = ",
        b"bus = 1\nbus = 2",
        b"a = " + b"[" * 20_000,
        b"a = " + b"9" * 20_000,
        b"seed = SUAAAA",
    ],
    ids=["cut short", "twice", "nested", "huge number", "unquoted"],
)
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "is not TOML" in refusal(write(tmp_path / "order.toml", content))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"bus = 1\n\xff", "is not UTF-8 text (line 2)"),
        (b"bus = 1\n\0", "line 2: this control character is shown by no editor"),
        (toml().encode("utf-16"), "is UTF-16 text, not UTF-8"),
        (toml().encode("utf-32"), "is UTF-32 text, not UTF-8"),
    ],
    ids=["bytes", "nul", "utf-16", "utf-32"],
)
def test_a_file_in_another_encoding_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in refusal(write(tmp_path / "order.toml", content))


def test_a_byte_order_mark_in_front_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "order.toml", b"\xef\xbb\xbf" + toml().encode())
    assert Credentials.load(path).bot == "order"


def test_where_toml_is_wrong_is_said(tmp_path: Path) -> None:
    assert "is not TOML (at line 2, column 7)" in refusal(
        write(tmp_path / "order.toml", 'bus = "shop"\nbot = ]\n')
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bus": None}, "bus must be a text"),
        ({"bot": 7}, "bot must be a text"),
        ({"seed": ""}, "seed must be a text"),
        ({"servers": "nats://127.0.0.1"}, "servers must be a list"),
        ({"servers": []}, "servers must be a list"),
        ({"servers": [1]}, "servers must be a list"),
        ({"bus_keys": None}, "bus_keys must be a list"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"bus": "The Shop"}, "bus is not a name"),
        ({"bot": "a.b"}, "bot is not a name"),
        ({"bot": KEY.seed_text}, "bot is not a name"),
        ({"seed": KEY.public.text}, "seed (SU…)"),
        ({"seed": BUS_KEY.seed_text}, "another kind"),
        ({"bus_keys": [KEY.public.text]}, "public key (N…) expected"),
        ({"bus_keys": [KEY.seed_text]}, "got a seed"),
    ],
)
def test_a_field_that_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(write(tmp_path / "order.toml", toml(**changes)))


@pytest.mark.parametrize(
    "server",
    [
        "", "127.0.0.1:4222", "http://127.0.0.1", "nats://", "nats:///path", "nats://[::1",
        "nats://h:99999", "nats://h:port", "nats://h:0", "nats://user:SECRET@h", "nats://SECRET@h",
        "nats://@h", "nats://h ", "nats://a\nb", "nats://\u00e9.example", "nats://h/path",
        "nats://h?query", "nats://h#part", "nats://h%2eexample", "nats://good\\evil",
        "nats://[fe80::1%25eth0]",
    ],
)  # fmt: skip
def test_bad_server_address_is_refused_and_not_repeated(tmp_path: Path, server: str) -> None:
    shown = refusal(write(tmp_path / "order.toml", toml(servers=[server])))
    assert "not a NATS address" in shown
    assert "SECRET" not in shown


def test_repr_does_not_show_the_seed(tmp_path: Path) -> None:
    loaded = Credentials.load(write(tmp_path / "order.toml", toml()))
    assert KEY.seed_text not in f"{loaded!r}{loaded}"
    assert "order" in repr(loaded)


# ---- the environment -----------------------------------------------------------------------------

ENVIRONMENT = {
    "SEALBUS_BUS": "shop",
    "SEALBUS_BOT": "order",
    "SEALBUS_SEED": KEY.seed_text,
    "SEALBUS_SERVERS": "nats://one:4222, nats://two:4222,",
    "SEALBUS_BUS_KEYS": BUS_KEY.public.text,
}


def test_the_environment_gives_the_fields() -> None:
    loaded = Credentials.from_environment(ENVIRONMENT)
    assert loaded.servers == ("nats://one:4222", "nats://two:4222")
    assert loaded.bus_keys == {BUS_KEY.public.raw}


@pytest.mark.parametrize("space", ["\n", "\r\n", " \n", "\t"])
def test_space_around_the_environment_s_values_is_ignored(space: str) -> None:
    loaded = Credentials.from_environment(
        {name: f" {text}{space}" for name, text in ENVIRONMENT.items()}
    )
    assert loaded.key_in_memory.seed_text == KEY.seed_text
    assert (loaded.bus, loaded.bot) == ("shop", "order")


def test_the_environment_names_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "order.toml", toml(bot="rival"))
    assert (
        Credentials.from_environment({**ENVIRONMENT, "SEALBUS_CREDENTIALS": str(path)}).bot
        == "rival"
    )


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_variable_that_is_not_set_is_named(name: str) -> None:
    for without in (
        {**ENVIRONMENT, name: ""},
        {key: text for key, text in ENVIRONMENT.items() if key != name},
    ):
        with pytest.raises(CredentialsError, match=f"no credentials: {name} not set"):
            Credentials.from_environment(without)


def test_a_wrong_variable_is_refused_without_its_text() -> None:
    with pytest.raises(CredentialsError, match="the environment: bot is not a name") as refused:
        Credentials.from_environment({**ENVIRONMENT, "SEALBUS_BOT": KEY.seed_text})
    assert KEY.seed_text not in str(refused.value)


# ---- any content ---------------------------------------------------------------------------------


def quietly(read: Any) -> None:
    said = ""
    try:
        read()
    except CredentialsError as refused:
        said = f"{refused!r}{refused.hint}"
    assert KEY.seed_text[8:] not in said


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=400)
    | st.text(max_size=400).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_file_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "any.toml", content)
    quietly(lambda: Credentials.load(path))


texts = st.sampled_from([*GOOD["servers"], *GOOD["bus_keys"], KEY.seed_text, "shop"]) | st.text(
    max_size=60
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(
        st.sampled_from([*GOOD, "other"]), texts | st.lists(texts) | st.integers() | st.none()
    )
)
def test_any_field_is_read_or_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    def clean(value: Any) -> Any:
        return (
            json.loads(json.dumps(value).encode("ascii", "ignore")) if value is not None else None
        )

    path = write(
        tmp_path / "any.toml", toml(**{name: clean(value) for name, value in changes.items()})
    )
    quietly(lambda: Credentials.load(path))


@given(st.dictionaries(st.sampled_from(list(ENVIRONMENT)), texts))
def test_any_environment_is_read_or_refused(changes: dict[str, str]) -> None:
    quietly(lambda: Credentials.from_environment({**ENVIRONMENT, **changes}))


def test_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SEALBUS_")]:
        monkeypatch.delenv(name)
    for name, text in ENVIRONMENT.items():
        monkeypatch.setenv(name, text)
    assert Credentials.from_environment().bot == "order"
    assert sys.getrecursionlimit() < 20_000  # so the nested file above is a test


def test_certificate_whose_path_is_not_utf_8_is_not_written(tmp_path: Path) -> None:
    """TOML has no escape for such a byte, so nobody could read the file."""
    odd = tmp_path / os.fsdecode(b"b\xff.pem")
    made = Credentials.load(write(tmp_path / "order.toml", toml(servers=["tls://127.0.0.1:4222"])))
    for tls in (TlsFiles(odd), TlsFiles(tmp_path / "ca.crt", odd, odd)):
        with pytest.raises(CredentialsError, match="not UTF-8") as told:
            replace(made, tls=tls).write(tmp_path / "new.toml")
        assert told.value.what.isascii()
    assert not (tmp_path / "new.toml").exists()
