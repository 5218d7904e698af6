"""The command line as a person uses it: the README's commands, and the mistakes of people."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealbus import Credentials
from sealbus.protocol.keys import KeyKind, PublicKey
from sealbus.protocol.reason import Reason
from sealbus.protocol.subjects import consumer_name
from tests.cli.command import SEALBUS, quickly, sealbus, wait_for
from tests.cli.folders import unwritable
from tests.cli.pinging import pinged
from tests.ports import free_port
from tests.waiting import PATIENCE_S


@dataclass
class Bus:
    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """`sealbus init mybus && sealbus up`, as in the README, on a port of its own."""
    folder, port = tmp_path_factory.mktemp("readme"), free_port()
    made = sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=folder)
    assert made.code == 0
    log = folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*SEALBUS, "up", "--port", str(port)], cwd=folder, stdout=output, stderr=output
        )
    wait_for(log, "is up at")
    yield Bus(folder, port, process, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0


def test_the_readme_s_hello_arrives(bus: Bus) -> None:
    with subprocess.Popen(
        [
            *SEALBUS,
            "sub",
            "greetings.sent",
            "--as",
            "listener",
            "-n",
            "1",
            "--from",
            "all",
            "--durable",
            "hello",
        ],
        cwd=bus.folder,
        stdout=subprocess.PIPE,
        text=True,
    ) as listening:
        said = sealbus(
            "pub", "greetings.sent", '{"text": "hello"}', "--as", "greeter", cwd=bus.folder
        )
        out, _ = listening.communicate(timeout=PATIENCE_S)
    assert (said.code, said.out.split()[0]) == (0, "accepted")
    assert out == 'greetings.sent  greeter  {"text": "hello"}\n'
    assert listening.returncode == 0


def test_a_refusal_exits_3_and_is_in_the_quarantine(bus: Bus, tmp_path: Path) -> None:
    refused = sealbus(
        "pub", "greetings.sent", '{"txt": "hello"}', "--as", "greeter", cwd=bus.folder
    )
    assert refused.code == 3
    assert "refused (schema)" in refused.err
    listed = sealbus("quarantine", "ls", "--json", "--reason", "schema", cwd=bus.folder)
    row = json.loads(listed.out.splitlines()[0])
    assert (row["reason"], row["session"], row["proven"], row["subject"]) == (
        "schema",
        "greeter",
        "greeter",
        "greetings.sent",
    )
    table = sealbus("quarantine", "ls", cwd=bus.folder)
    assert "greetings.sent" in table.out
    assert "schema" in table.out
    assert "additionalProperties txt" in table.out
    raw = tmp_path / "raw"
    shown = sealbus("quarantine", "show", str(row["sequence"]), "--out", str(raw), cwd=bus.folder)
    assert '{"txt": "hello"}' in shown.out
    assert re.search(r"^arrived_at +20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ$", shown.out, re.MULTILINE)
    dumped = sealbus("quarantine", "show", str(row["sequence"]), "--hex", cwd=bus.folder)
    assert "74 78 74" in dumped.out  # txt, in the dump
    inspected = sealbus("inspect", str(raw), "--json", cwd=bus.folder)
    assert inspected.code == 0
    assert json.loads(inspected.out)["payloads"] == [{"txt": "hello"}]
    again = sealbus("quarantine", "show", str(row["sequence"]), "--out", str(raw), cwd=bus.folder)
    assert (again.code, "exists already" in again.err) == (1, True)
    assert stat.S_IMODE(raw.stat().st_mode) == 0o600
    assert sealbus("quarantine", "show", "999999", cwd=bus.folder).code == 3


@pytest.mark.parametrize("columns", [None, "40", "80", "500"])
def test_a_listed_record_is_never_cut(bus: Bus, columns: str | None) -> None:
    """However wide the terminal is said to be: whoever reads the list may search it by lines."""
    subject = ".".join(["greetings", *["x" * 45] * 4])
    wrong = {letter * 40: 1 for letter in "yz"}
    kept = []
    for on, payload in ((subject, {"text": "x"}), ("greetings.sent", wrong)):
        refused = sealbus("pub", on, json.dumps(payload), "--as", "greeter", cwd=bus.folder)
        assert refused.code == 3
        kept += re.findall(r"kept as record (\d+)", refused.err)
    variables = {} if columns is None else {"COLUMNS": columns}
    listed = sealbus("quarantine", "ls", cwd=bus.folder, variables=variables)
    # By the number of the record, because a message that was sent again has two records.
    lines = {
        text.split()[0]: text.splitlines()
        for text in re.findall(r"^\S.*\n(?: .*\n)*", listed.out, re.MULTILINE)
    }
    [named], [_, detail] = (lines[record] for record in kept)
    assert detail.startswith("        (root): additionalProperties yyy")
    assert detail.endswith("; (root): required text")
    assert len(detail) > 80
    assert named.endswith(f" {subject}")


def variables_of(credentials: Credentials) -> dict[str, str]:
    """The environment that holds these credentials."""
    return {
        "SEALBUS_BUS": credentials.bus,
        "SEALBUS_BOT": credentials.bot,
        "SEALBUS_SERVERS": ",".join(credentials.servers),
        "SEALBUS_BUS_KEYS": ",".join(
            PublicKey(key, KeyKind.BUS).text for key in credentials.bus_keys
        ),
        "SEALBUS_SEED": credentials.key_in_memory.seed_text,
    }


@pytest.mark.parametrize("command", ["quarantine", "subscriptions"])
def test_an_operator_s_key_may_be_in_the_environment(
    bus: Bus, tmp_path: Path, command: str
) -> None:
    """The current folder has no policy.yaml, and no credentials."""
    operator = Credentials.load(bus.folder / "mybus/credentials/operator.toml")
    asked = sealbus(command, "ls", "--json", cwd=tmp_path, variables=variables_of(operator))
    assert (asked.code, asked.err) == (0, "")


@pytest.mark.parametrize("name", ["SEALBUS_SEED", "SEALBUS_TOKEN_FILE"])
def test_the_environment_is_asked_before_the_default(bus: Bus, name: str) -> None:
    """The folder has the credentials of the default."""
    asked = sealbus("quarantine", "ls", cwd=bus.folder, variables={name: "x"})
    assert asked.code == 1
    assert "no credentials: SEALBUS_BUS, SEALBUS_BOT" in asked.err
    chosen = sealbus("quarantine", "ls", "--as", "operator", cwd=bus.folder, variables={name: "x"})
    assert chosen.code == 0, chosen.err


@pytest.mark.parametrize("form", ["seed", "token", "file", "file of the command"])
def test_a_typed_folder_wins_over_the_environment(bus: Bus, tmp_path: Path, form: str) -> None:
    """The environment has the credentials of another bus, as in a shell for production."""
    assert sealbus("init", "other", cwd=tmp_path).code == 0
    other = tmp_path / "other/credentials/operator.toml"
    variables = {
        "seed": variables_of(Credentials.load(other)),
        "token": {"SEALBUS_TOKEN_FILE": str(tmp_path / "token")},
        "file": {"SEALBUS_CREDENTIALS": str(other)},
        "file of the command": {"SEALBUS_QUARANTINE_LS_CREDENTIALS": str(other)},
    }[form]
    folder = str(bus.folder / "mybus")
    asked = sealbus("quarantine", "ls", "--dir", folder, cwd=tmp_path, variables=variables)
    assert asked.code == 0, asked.err


def test_a_typed_file_wins_over_a_bot_of_the_environment(bus: Bus) -> None:
    typed = ("quarantine", "ls", "--credentials", "mybus/credentials/operator.toml")
    asked = sealbus(*typed, cwd=bus.folder, variables={"SEALBUS_QUARANTINE_LS_AS": "greeter"})
    assert asked.code == 0, asked.err


def test_a_bot_and_a_file_are_not_typed_together(bus: Bus) -> None:
    asked = quickly("quarantine", "ls", "--as", "operator", "-c", "x.toml", cwd=bus.folder)
    assert asked.code == 2
    assert "--as and --credentials both name who speaks" in asked.err


def test_a_typed_folder_needs_the_name_of_a_bot(bus: Bus) -> None:
    """The environment has the credentials of a bot that may be on another bus."""
    greeter = Credentials.load(bus.folder / "mybus/credentials/greeter.toml")
    said = ("pub", "greetings.sent", '{"text": "x"}', "--dir", "mybus")
    asked = sealbus(*said, cwd=bus.folder, variables=variables_of(greeter))
    assert (asked.code, asked.out) == (2, "")
    assert "--dir names no bot: add --as BOT" in asked.err


def test_a_removal_stays_in_the_typed_folder(bus: Bus, tmp_path: Path) -> None:
    """The environment has the operator of a bus that has the subscription."""
    place = ("sub", "greetings.sent", "--as", "listener", "--durable", "kept", "--idle", "0.1")
    sealbus(*place, cwd=bus.folder)
    consumer = consumer_name("listener", "greetings.sent", "kept")
    url = f"nats://127.0.0.1:{free_port()}"
    assert sealbus("init", "staging", "--server", url, cwd=tmp_path).code == 0
    operator = Credentials.load(bus.folder / "mybus/credentials/operator.toml")
    removal = ("subscriptions", "rm", consumer, "--yes", "--timeout", "1", "--dir", "staging")
    removed = sealbus(*removal, cwd=tmp_path, variables=variables_of(operator))
    assert removed.code != 0, removed.err
    assert consumer in sealbus("subscriptions", "ls", cwd=bus.folder).out


def test_a_typed_file_wins_over_the_folder_s_bot(bus: Bus, tmp_path: Path) -> None:
    assert sealbus("init", "other", cwd=tmp_path).code == 0
    operator = str(bus.folder / "mybus/credentials/operator.toml")
    options = ("--dir", "other", "--credentials", operator)
    asked = sealbus("quarantine", "ls", *options, cwd=tmp_path)
    assert asked.code == 0, asked.err


def test_a_record_that_cannot_be_kept_is_told_how_to(bus: Bus, tmp_path: Path) -> None:
    assert (
        sealbus("pub", "greetings.sent", '{"txt": "x"}', "--as", "greeter", cwd=bus.folder).code
        == 3
    )
    newest = json.loads(sealbus("quarantine", "ls", "--json", "-n", "1", cwd=bus.folder).out)[
        "sequence"
    ]
    told = sealbus(
        "quarantine", "show", str(newest), "--out", str(tmp_path / "nowhere/raw"), cwd=bus.folder
    )
    assert (told.code, told.out) == (1, "")
    assert "its folder does not exist\nhint: make the folder first" in told.err
    with unwritable(tmp_path):
        told = sealbus(
            "quarantine", "show", str(newest), "--out", str(tmp_path / "raw"), cwd=bus.folder
        )
    assert (told.code, "hint: name a file in a folder where you may write" in told.err) == (
        1,
        True,
    ), told.err


@pytest.mark.parametrize("record", ["abc", "0", "1.5", "9" * 20])
def test_a_record_that_is_no_number_is_told(tmp_path: Path, record: str) -> None:
    told = quickly("quarantine", "show", record, cwd=tmp_path)
    assert (told.code, told.out) == (2, "")
    assert f"error: RECORD: got {record}, expected a number from 1 to" in told.err
    assert "hint: `sealbus quarantine ls` shows the numbers" in told.err


@pytest.mark.parametrize("number", ["x", "0", "100001", "1_0", "٣", " 1"])
def test_a_number_out_of_range_is_told_in_our_words(tmp_path: Path, number: str) -> None:
    told = quickly("quarantine", "ls", "--limit", number, cwd=tmp_path)
    assert (told.code, "is not a whole number from 1 to 100,000" in told.err) == (2, True)


@pytest.mark.parametrize(
    "seconds", ["0", "x", "1_0", "1e3", "inf", "nan", "٣", " 1", "-1", "99999"]
)
def test_a_time_is_a_plain_number_of_seconds(tmp_path: Path, seconds: str) -> None:
    told = quickly("sub", "greetings.sent", "--timeout", seconds, cwd=tmp_path)
    assert (told.code, "is not a time in seconds" in told.err) == (2, True)


@pytest.mark.parametrize("nonce", ["00 " * 16, "0x" + "0" * 30, "\u0660" * 32, "0" * 31])
def test_a_nonce_is_hexadecimal_digits_alone(tmp_path: Path, nonce: str) -> None:
    told = quickly("pub", "greetings.sent", "{}", "--nonce", nonce, cwd=tmp_path)
    assert (told.code, "a nonce has 32 hexadecimal digits" in told.err) == (2, True)


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        ("greetings.snt", Reason.UNDECLARED_SUBJECT.meaning),
        ("clock.ask", Reason.NOT_GRANTED.meaning),
    ],
)
def test_a_refusal_without_detail_has_a_sentence(bus: Bus, subject: str, sentence: str) -> None:
    refused = sealbus("pub", subject, "{}", "--as", "greeter", cwd=bus.folder)
    assert refused.code == 3
    assert sentence in refused.err


def test_json_lines_are_counted_by_verdict(bus: Bus) -> None:
    lines = '{"text": "a"}\n\n{"text": ""}\nnonsense\n{"text": "b"}\n'
    done = sealbus(
        "pub", "greetings.sent", "--file", "-", "--as", "greeter", cwd=bus.folder, given=lines
    )
    assert done.code == 3
    # "refused", where the lines were read together and share an envelope
    assert done.err.splitlines()[-1] in (
        "2 accepted, 1 invalid, 1 refused",
        "2 accepted, 1 invalid, 1 quarantined",
    )
    assert "line 4: column 1: is not JSON" in done.err


def test_a_request_is_refused_to_whom_it_is_not_granted(bus: Bus) -> None:
    asked = sealbus("request", "clock.ask", '{"zone": "UTC"}', "--as", "greeter", cwd=bus.folder)
    assert asked.code == 3
    assert "not-granted" in asked.err


def test_ping_and_a_second_up_and_a_taken_port(bus: Bus, tmp_path: Path) -> None:
    server = f"nats://127.0.0.1:{bus.port}"
    pinged(lambda: sealbus("ping", "--server", server, cwd=bus.folder))
    second = sealbus("up", "--port", str(free_port()), cwd=bus.folder)
    assert second.code == 1
    assert "error:" in second.err
    assert "runs already" in second.err
    assert sealbus("init", "other", cwd=tmp_path).code == 0
    taken = sealbus("up", "--port", str(bus.port), cwd=tmp_path)
    assert taken.code == 1
    assert f"port {bus.port}" in taken.err
    assert "hint:" in taken.err


def test_a_bus_that_was_killed_comes_back(tmp_path: Path) -> None:
    port = free_port()
    assert sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{port}", cwd=tmp_path).code == 0
    for attempt in range(2):
        log = tmp_path / f"up{attempt}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*SEALBUS, "up", "--port", str(port)], cwd=tmp_path, stdout=output, stderr=output
            )
        wait_for(log, "is up at")
        assert (
            sealbus(
                "pub", "greetings.sent", '{"text": "hello"}', "--as", "greeter", cwd=tmp_path
            ).code
            == 0
        )
        process.kill() if attempt == 0 else process.terminate()
        process.wait(PATIENCE_S)


def test_init_overwrites_nothing_and_keeps_secrets_to_itself(tmp_path: Path) -> None:
    assert sealbus("init", "mybus", cwd=tmp_path).code == 0
    again = sealbus("init", "mybus", cwd=tmp_path)
    assert again.code == 1
    assert "exists already" in again.err
    for secret in ("mybus/.sealbus/relay.toml", "mybus/credentials/greeter.toml"):
        assert stat.S_IMODE((tmp_path / secret).stat().st_mode) == 0o600
    keys = "".join(path.read_text() for path in (tmp_path / "mybus/keys").iterdir())
    assert not re.search(r"\bS[UNA][A-Z2-7]{56}", keys)
    assert sealbus("check", "--dir", "mybus", cwd=tmp_path).code == 0


def test_a_new_seed_is_not_in_keys_and_never_overwritten(tmp_path: Path) -> None:
    assert sealbus("init", "mybus", cwd=tmp_path).code == 0
    inside = sealbus("keys", "new", "greeter", "--out", "mybus/keys/greeter.toml", cwd=tmp_path)
    assert inside.code == 1
    assert "for public keys" in inside.err
    again = sealbus("keys", "new", "greeter", cwd=tmp_path)
    assert again.code == 1
    assert "never overwritten" in again.err
    assert sealbus("keys", "new", "greeter", "--out", "next.toml", cwd=tmp_path).code == 0
    listed = sealbus("keys", "ls", "--json", cwd=tmp_path)
    assert [json.loads(line)["bot"] for line in listed.out.splitlines()].count("greeter") == 2


def test_check_names_all_problems_at_once_with_their_places(tmp_path: Path) -> None:
    assert sealbus("init", "mybus", cwd=tmp_path).code == 0
    policy = tmp_path / "mybus/policy.yaml"
    policy.write_text(
        policy.read_text()
        .replace("ttl: 60s", "ttl: soon")
        .replace("publish: [clock.ask]", "publish: [clok.ask]")
    )
    (tmp_path / "mybus/schemas/clock.ask.v1.json").write_text('{"type": "objekt"}')
    checked = sealbus("check", "--dir", "mybus", "--json", cwd=tmp_path)
    problems = [
        row for row in map(json.loads, checked.out.splitlines()) if row["kind"] == "problem"
    ]
    assert checked.code == 3
    assert {row["file"] for row in problems} == {"policy.yaml", "schemas/clock.ask.v1.json"}
    assert all(row["line"] >= 1 for row in problems)
    assert len(problems) >= 3
    up = sealbus("up", "--dir", "mybus", cwd=tmp_path)
    assert up.code == 1
    assert "nothing was done" in up.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("pub", "greetings.sent"), 2, "PAYLOAD or --file"),
        (("pub", "greetings.sent", "{}"), 2, "no credentials given"),
        (("pub", "greetings.sent", "{}", "-c", "nowhere.toml"), 1, "cannot be read"),
        (("sub", "greetings.sent", "--as", "nobody"), 1, "no policy.yaml"),
        (("up",), 1, "no policy.yaml"),
        (("relay",), 1, "no policy.yaml"),
        (("ping",), 1, "no policy.yaml"),
        (("check",), 1, "no policy.yaml"),
        (("keys", "new", "Nobody"), 1, "no policy.yaml"),
        (("inspect", "nowhere"), 1, "cannot be read"),
        (("nothing",), 2, "No such command"),
    ],
)
def test_a_mistake_gets_a_sentence_and_a_code(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = sealbus(*arguments, cwd=tmp_path)
    assert done.code == code
    assert said in done.err + done.out


def test_a_bus_that_is_not_up_is_named(tmp_path: Path) -> None:
    assert (
        sealbus("init", "mybus", "--server", f"nats://127.0.0.1:{free_port()}", cwd=tmp_path).code
        == 0
    )
    done = sealbus("pub", "greetings.sent", '{"text": "x"}', "--as", "greeter", cwd=tmp_path)
    assert done.code == 1
    assert "nobody listens at" in done.err
    assert "hint:" in done.err
