"""The workflows and hooks are valid, have few rights, and run the targets of the Makefile."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def document(path: Path) -> dict[str, Any]:
    # YAML 1.2, in which `on` is text.
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(path.read_text())
    return found


def jobs() -> list[dict[str, Any]]:
    return [job for path in WORKFLOWS for job in document(path)["jobs"].values()]


def steps() -> list[dict[str, Any]]:
    return [step for job in jobs() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_valid(path: Path) -> None:
    vendor = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((vendor / "github-workflows.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(document(path))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read(path: Path) -> None:
    assert document(path)["permissions"] == {"contents": "read"}


def test_only_the_upload_has_rights_and_it_runs_no_own_code() -> None:
    more = [job for job in jobs() if "permissions" in job]
    assert [job["permissions"] for job in more] == [{"id-token": "write"}]
    assert all("run" not in step and "checkout" not in step["uses"] for step in more[0]["steps"])


def test_each_action_is_named_by_its_major_version() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", one)] == []


def test_no_checkout_leaves_credentials_behind() -> None:
    checkouts = [step for step in steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"] for step in checkouts] == [{"persist-credentials": False}] * 4


def test_workflows_and_hooks_run_targets_that_exist() -> None:
    commands = [step["run"] for step in steps() if "run" in step]
    (repo,) = document(ROOT / ".pre-commit-config.yaml")["repos"]
    commands += [hook["entry"] for hook in repo["hooks"]]
    made = [command.split()[-1] for command in commands if command.startswith("make ")]
    # The tag of a release is compared, and SoftHSM is installed.
    assert len(made) >= len(commands) - 2
    assert set(made) <= TARGETS


def test_every_python_that_is_named_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    matrix = document(ROOT / ".github/workflows/ci.yml")["jobs"]["linux"]["strategy"]["matrix"]
    assert matrix["python"] == found


def test_one_python_keeps_the_floor_of_coverage() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert 50 < tool["coverage"]["report"]["fail_under"] < 100
    measured = [step for step in steps() if step.get("run", "").endswith(" coverage")]
    assert len(measured) == 1


def test_hooks_fetch_nothing() -> None:
    (repo,) = document(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}
