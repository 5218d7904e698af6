"""The Dockerfile and compose.yaml as values that tests can check. No Docker engine is needed."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a Dockerfile: its image and its instructions, in order."""

    image: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, keyword: str) -> list[str]:
        """The arguments of every instruction with that name."""
        return [argument for name, argument in self.instructions if name == keyword]


def read_dockerfile(path: Path) -> list[Stage]:
    """Parse a Dockerfile. Comments are left out and continued lines are joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        keyword, _, argument = line.strip().partition(" ")
        if keyword == "FROM":
            stages.append(Stage(argument.partition(" ")[0], ()))
        elif keyword:
            stage = stages.pop()
            stages.append(
                Stage(stage.image, (*stage.instructions, (keyword, " ".join(argument.split()))))
            )
    return stages


def exec_form(argument: str) -> list[str]:
    """The parts of ``["sealbus"]`` as a list.

    The shell form is an error here, because it hides the signal from the process.
    """
    command: list[str] = json.loads(argument)
    return command


def read_compose(path: Path) -> dict[str, Any]:
    """compose.yaml with anchors and merges resolved and variables at their defaults."""
    document: dict[str, Any] = YAML(typ="safe", pure=True).load(
        _VARIABLE.sub(lambda found: found[2], path.read_text())
    )
    return document


def compose_schema() -> dict[str, Any]:
    """The compose specification's own JSON Schema, as the check-jsonschema package carries it."""
    vendor = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema: dict[str, Any] = json.loads((vendor / "compose-spec.json").read_text())
    return schema


def volumes(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """For every mount of a service: the target, the source, and whether it is read-only.

    A mount may have either notation.
    """
    mounts: dict[str, tuple[str, bool]] = {}
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            mounts[target] = (source, mode == ["ro"])
        else:
            mounts[volume["target"]] = (volume["source"], volume.get("read_only", False))
    return mounts


def sealbus_commands(compose: dict[str, Any]) -> dict[str, list[str]]:
    """Every ``sealbus`` command in compose.yaml without the word ``sealbus``.

    These are the services' commands and health checks.
    """
    commands: dict[str, list[str]] = {}
    for name, service in compose["services"].items():
        if str(service["image"]).startswith("sealbus:"):
            command = service["command"]
            commands[name] = shlex.split(command) if isinstance(command, str) else list(command)
        test = service.get("healthcheck", {}).get("test", [])
        if test[:2] == ["CMD", "sealbus"]:
            commands[f"{name} health"] = test[2:]
    return commands
