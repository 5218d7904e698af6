"""Files that cannot be read.

They are missing, of another kind, too large, not text, not YAML or not JSON.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sealbus.protocol.keys import KeyKind, SigningKey
from sealbus_broker.policy.document import (
    MAX_FILE_BYTES,
    Document,
    parse_yaml,
    read_json,
    read_yaml,
)
from sealbus_broker.policy.json_tree import MAX_DEPTH as JSON_DEPTH
from sealbus_broker.policy.loader import load
from sealbus_broker.policy.problems import Problem
from sealbus_broker.policy.yaml_tree import MAX_DEPTH as YAML_DEPTH
from tests.policy.folder import POLICY, Folder, first_line, sound_policy


def test_no_folder(tmp_path: Path) -> None:
    loaded = load(tmp_path / "nowhere")
    assert loaded.policy is None
    assert [problem.what for problem in loaded.problems] == ["is not a folder"]


@pytest.mark.parametrize("name", ["nul\0byte", "x" * 5000])
def test_a_folder_with_an_impossible_name(name: str) -> None:
    assert [problem.what for problem in load(Path(name)).problems] == ["is not a folder"]


def test_a_missing_policy_says_how_to_make_one(bus: Folder) -> None:
    (bus.root / "policy.yaml").unlink()
    assert first_line(bus.problem()) == "policy.yaml: cannot be read: No such file or directory"
    assert bus.problem().hint == "make a new bus with `sealbus init`"


def test_a_folder_that_is_read_again_gives_the_same_policy(bus: Folder) -> None:
    bus.key("order")
    for schema in ('{"type": "object"}', '{"type": "array"}', "{"):
        bus.write("schemas/order.v1.json", schema)
        again, anew = bus.load(), load(bus.root)
        assert (again.problems, again.notes) == (anew.problems, anew.notes)
        assert (again.policy and again.policy.digest) == (anew.policy and anew.policy.digest)
    assert sound_policy() == parse_yaml("policy.yaml", POLICY.encode()), "reading changed it"


def test_missing_schemas(bus: Folder) -> None:
    (bus.root / "schemas" / "order.v1.json").unlink()
    (bus.root / "schemas").rmdir()
    assert "schemas: cannot be read: No such file or directory" in bus.problems()


def test_no_keys_folder_is_no_keys(bus: Folder) -> None:
    assert bus.load().policy is not None


@pytest.mark.parametrize("file", ["policy.yaml", "schemas/order.v1.json", "keys/order.yaml"])
class TestAnyFile:
    def put(self, bus: Folder, file: str) -> Path:
        bus.key("order")
        path = bus.root / file
        path.unlink()
        return path

    def test_is_a_folder(self, bus: Folder, file: str) -> None:
        self.put(bus, file).mkdir()
        assert bus.problems() == [f"{file}: is a folder, not a file"]

    def test_is_a_fifo_that_nobody_writes(self, bus: Folder, file: str) -> None:
        os.mkfifo(self.put(bus, file))
        assert bus.problems() == [f"{file}: is not a regular file"]

    def test_leads_out_of_the_folder(self, bus: Folder, file: str, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_text("hunter2")
        self.put(bus, file).symlink_to(secret)
        assert bus.problems() == [f"{file}: leads out of the folder"]
        assert "hunter2" not in str(bus.problem())

    def test_leads_to_itself(self, bus: Folder, file: str) -> None:
        path = self.put(bus, file)
        path.symlink_to(path.name)
        assert first_line(bus.problem()).startswith(f"{file}: cannot be read: ")

    def test_leads_elsewhere_in_the_folder(self, bus: Folder, file: str) -> None:
        bus.key("order")
        path = bus.root / file
        (bus.root / "..data").mkdir()  # as Kubernetes mounts a ConfigMap
        path.rename(bus.root / "..data" / path.name)
        path.symlink_to(bus.root / "..data" / path.name)
        assert bus.problems() == []

    def test_is_too_large(self, bus: Folder, file: str) -> None:
        bus.key("order")
        path = bus.root / file
        path.write_bytes(path.read_bytes() + b" " * MAX_FILE_BYTES)
        assert bus.problems() == [f"{file}: is too large"]

    def test_is_not_utf_8(self, bus: Folder, file: str) -> None:
        self.put(bus, file).write_bytes(b"{\n  \xc3\xa9\xff: 1}")
        assert bus.problems() == [f"{file}:2:4: is not UTF-8"]
        assert bus.problem().got == "byte 0xff"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_may_not_be_read(self, bus: Folder, file: str) -> None:
        bus.key("order")
        (bus.root / file).chmod(0)
        assert bus.problems() == [f"{file}: cannot be read: Permission denied"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb:\n  a: 2\n  a: 3\n", "4:3: the key a occurs twice"),
        ("a: &x 1\nb: 2\n", "1:4: anchors (&name) are not used here"),
        ("a: 1\nb: *x\n", "2:4: aliases (*name) are not used here"),
        ("a: !!python/object:os.system x\n", "1:4: tags (!type) are not used here"),
        ("a: !binary x\n", "1:4: tags (!type) are not used here"),
        ("a: ! x\n", "1:4: tags (!type) are not used here"),
        ("<<: {a: 1}\n", "1:1: merge keys (<<) are not used here"),
        ("a: 1\n---\nb: 2\n", "2:1: a second document begins"),
        ("{a: 1}: 2\n", "1:1: a key is not a text"),
        ("a: b: c\n", "1:5: is not YAML: a second colon stands in one line"),
        ("a: [1, 2\n", "1:4: is not YAML: the bracket [ is not closed"),
        ("a:\n\t- b\n", "2:1: is not YAML: a tab stands where spaces belong"),
        ("a: \0\n", "1:4: this control character is shown by no editor, and obeyed by terminals"),
        (
            "a: 1\nb: \x1b\n",
            "2:4: this control character is shown by no editor, and obeyed by terminals",
        ),
        ("a: " + "[" * 100_000, f"1:{3 + YAML_DEPTH}: is nested deeper than {YAML_DEPTH}"),
        ("a: " + "{a: " * 100_000, f"1:{4 * YAML_DEPTH}: is nested deeper than {YAML_DEPTH}"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.yaml").write_bytes(text.encode())
    problem = read_yaml(tmp_path, "x.yaml")
    assert isinstance(problem, Problem)
    assert first_line(problem) == f"x.yaml:{told}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# only a comment\n", None),
        ("a: yes\n", {"a": "yes"}),
        ("a: on\nb: NO\nc: True\n", {"a": "on", "b": "NO", "c": "True"}),
        (
            "a: true\nb: false\nc: ~\nd: null\ne:\n",
            {"a": True, "b": False, "c": None, "d": None, "e": None},
        ),
        (
            "a: 017\nb: 0x1f\nc: 1_0\nd: 1.5\ne: 1e3\nf: 1:30\n",
            {"a": "017", "b": "0x1f", "c": "1_0", "d": "1.5", "e": "1e3", "f": "1:30"},
        ),
        ("a: 17\nb: -1\nc: '17'\n", {"a": 17, "b": -1, "c": "17"}),
        (
            "a: 2026-11-24T08:00:00Z\nb: 2026-13-45\n",
            {"a": "2026-11-24T08:00:00Z", "b": "2026-13-45"},
        ),
        ("1: a\ntrue: b\n? \n: c\n", {"1": "a", "true": "b", "": "c"}),
        ("a: |\n  x\n  y\nb: >\n  x\n  y\n", {"a": "x\ny\n", "b": "x y\n"}),
        ("a: " + "9" * 5000, {"a": "9" * 5000}),
        ("\ufeffa: 1\n", {"a": 1}),
    ],
)
def test_yaml_has_one_meaning(tmp_path: Path, text: str, value: object) -> None:
    (tmp_path / "x.yaml").write_bytes(text.encode())
    document = read_yaml(tmp_path, "x.yaml")
    assert isinstance(document, Document), document
    assert document.value == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: is not JSON: a value is expected"),
        ("{}\n{}", "2:1: is not JSON: something follows the value"),
        ("{a: 1}", "1:2: is not JSON: a key in double quotes is expected"),
        ('{"a" 1}', "1:6: is not JSON: a colon is expected"),
        ('{"a": 1,}', "1:9: is not JSON: a key in double quotes is expected"),
        ('{"a": 1', "1:8: is not JSON: a comma or } is expected"),
        ("[1,\n 2,]", "2:4: is not JSON: a value is expected"),
        ("[1 2]", "1:4: is not JSON: a comma or ] is expected"),
        ("[NaN]", "1:2: is not JSON: a value is expected"),
        ("[-Infinity]", "1:2: is not JSON: a value is expected"),
        ("[01]", "1:3: is not JSON: a comma or ] is expected"),
        ("[1.]", "1:3: is not JSON: a comma or ] is expected"),
        ("[.5]", "1:2: is not JSON: a value is expected"),
        ("[+1]", "1:2: is not JSON: a value is expected"),
        ("['a']", "1:2: is not JSON: a value is expected"),
        ("[1] // no", "1:5: is not JSON: something follows the value"),
        ('["a\nb"]', "1:4: is not JSON: the text contains a control character"),
        ('["a', "1:2: is not JSON: the text is not closed"),
        (
            '["\\x"]',
            "1:3: is not JSON: a backslash stands before a character that it does not escape",
        ),
        ('["\\ud800"]', "1:2: half of a surrogate pair is not a character"),
        (
            "\ufeff\ufeff{}",
            "1:1: this character is shown as nothing, so that two different texts look the same",
        ),
        (
            "{}\n\ufeff",
            "2:1: this character is shown as nothing, so that two different texts look the same",
        ),
        ("[1e999]", "1:2: the number is too large to be exact"),
        ("[9007199254740992]", "1:2: the number is too large to be exact"),
        ("[" + "9" * 5000 + "]", "1:2: the number is too large to be exact"),
        ('{"a": 1,\n "b": {"c": 1, "c": 2}}', "2:16: the key c occurs twice"),
        ("[" * 100_000, f"1:{JSON_DEPTH + 1}: is nested deeper than {JSON_DEPTH}"),
        ('{"a":' * 100_000, f"1:{5 * JSON_DEPTH + 1}: is nested deeper than {JSON_DEPTH}"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode())
    problem = read_json(tmp_path, "x.json")
    assert isinstance(problem, Problem)
    assert first_line(problem) == f"x.json:{told}"


@pytest.mark.parametrize(
    "file", ["policy.yaml", "schemas/order.v1.json", "keys/order.yaml", "bus.toml"]
)
class TestEncoding:
    def put(self, bus: Folder, file: str, encoding: str) -> None:
        bus.key("order")
        key = SigningKey.generate(KeyKind.BUS).public.text
        bus.write(
            "bus.toml", f'name = "shop"\nservers = ["nats://127.0.0.1"]\nbus_keys = ["{key}"]\n'
        )
        bus.write(file, (bus.root / file).read_text().encode(encoding))

    def test_a_byte_order_mark_in_front_is_skipped(self, bus: Folder, file: str) -> None:
        self.put(bus, file, "utf-8-sig")
        assert bus.problems() == []

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
    def test_another_encoding_is_named(self, bus: Folder, file: str, encoding: str) -> None:
        self.put(bus, file, encoding)
        assert f"{file}: is {encoding.upper()} text, not UTF-8" in bus.problems()
