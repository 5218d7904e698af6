"""The configurations of ``docs/identity-providers.md`` are read by their programs."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sealbus import Credentials
from sealbus.nats.tls_files import TlsFiles
from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus.protocol.limits import MAX_TOKEN_BYTES
from sealbus.tokens import ClientCredentials, TokenFile, TokenFunction
from sealbus_broker.oidc import provider_keys
from tests.docs.places import DOCS
from tests.policy.folder import Folder

PAGE = (DOCS / "identity-providers.md").read_text()
POLICIES = re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE)
SUBJECTS = "subjects:\n  {0}: {{schema: order.v1}}\n"


def block(language: str, number: int = 0) -> str:
    return str(re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[number])


@pytest.mark.parametrize("provider", ["cluster", "ci"])
def test_policy_of_the_page_loads(bus: Folder, provider: str) -> None:
    (text,) = [one for one in POLICIES if f"      {provider}:\n" in one and "bots:" in one]
    (subject,) = re.findall(r"publish: \[(.+?)\]", text)
    head = "version: 1\nbus: shop\n"
    bus.write("policy.yaml", head + textwrap.dedent(text) + SUBJECTS.format(subject))
    bus.key("sealbus")
    loaded = bus.load()
    assert not loaded.problems
    assert loaded.policy is not None
    (bot,) = loaded.policy.bots.values()
    assert [one.provider.name for one in bot.identities] == [provider]


def test_variables_of_the_pod_are_credentials() -> None:
    pod = YAML(typ="safe").load(block("yaml"))["spec"]
    (container,) = pod["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    made = Credentials.from_environment(variables)
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    (source,) = volumes["token"]["projected"]["sources"]
    path = Path(mounts["token"], source["serviceAccountToken"]["path"])
    assert made.tokens == TokenFile(path)
    assert source["serviceAccountToken"]["audience"] == "sealbus:shop"
    tls = Path(mounts["tls"])
    assert made.tls == TlsFiles(tls / "ca.crt", tls / "tls.crt", tls / "tls.key")


def test_program_of_the_ci_job_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALBUS_ID_TOKEN", "a.b.c")
    names: dict[str, object] = {}
    exec(block("python"), names)  # noqa: S102  # the page's own program
    made = names["credentials"]
    assert isinstance(made, Credentials)
    assert isinstance(made.tokens, TokenFunction)


def test_credentials_with_an_endpoint_load(tmp_path: Path) -> None:
    path = tmp_path / "order.toml"
    path.touch(mode=0o600)
    path.write_text(block("toml"))
    made = Credentials.load(path)
    assert isinstance(made.tokens, ClientCredentials)
    assert made.tokens.secret_file == tmp_path / "order.secret"


def test_each_field_of_the_table_is_described(tmp_path: Path) -> None:
    path = tmp_path / "order.toml"
    path.touch(mode=0o600)
    path.write_text(block("toml") + 'zzz = "1"\n')
    with pytest.raises(Exception, match="unknown field 'zzz'") as told:
        Credentials.load(path)
    known = str(getattr(told.value, "hint", "")).split(", ")
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == known


def test_commands_of_the_page_exist() -> None:
    said = set(re.findall(r"`sealbus ([a-z]+(?: [a-z]+)?)", PAGE))
    assert {"keys issuer", "keys void", "certs init", "up", "prepare"} <= said
    headings = re.findall(r"^###? sealbus (.+)$", (DOCS / "commands.md").read_text(), re.MULTILINE)
    assert said <= {*headings, *(one.split()[0] for one in headings)}


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"at most {MAX_TOKEN_BYTES:,} characters" in PAGE
    assert provider_keys.FRESH_S == 5 * 60
    assert "uses them for five minutes" in PAGE
    assert provider_keys.COOLDOWN_S == 5
    assert "at most every five seconds" in " ".join(PAGE.split())
    assert provider_keys.KEEP_S == 3600
    assert "uses the last keys until they are one hour old" in " ".join(PAGE.split())


@pytest.fixture
def bus(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "bus")


def test_key_of_the_page_is_a_bus_key() -> None:
    (key,) = set(re.findall(r"N[A-Z2-7]{55}", PAGE))
    assert len(key) == len(SigningKey.generate(KeyKind.BUS).public.text)
