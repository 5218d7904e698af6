"""Makes the tables of ``docs/policy.md``: the limits of a policy, and the sizes of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sealbus import credentials
from sealbus_broker.gate.policy import Limits
from sealbus_broker.policy import bus_file, json_tree, yaml_tree
from sealbus_broker.policy.document import MAX_FILE_BYTES
from sealbus_broker.policy.keys import MAX_KEY_FILE_BYTES
from sealbus_broker.policy.limits import RANGES
from sealbus_broker.policy.schemas.files import MAX_SCHEMA_BYTES, MAX_SCHEMAS
from sealbus_broker.relay import secrets
from tests.docs.parts.markdown import table


def policy_limits() -> str:
    """The limits of a policy, with their ranges."""

    def rows() -> Iterator[tuple[str, ...]]:
        given = Limits()
        for name, (least, most) in RANGES.items():
            time = hasattr(given, f"{name}_ms")
            written = _duration if time else _size if name.endswith("_bytes") else str
            default = getattr(given, f"{name}_ms" if time else name)
            shown = "none" if default is None else f"`{written(default)}`"
            yield f"`{name}`", shown, *(f"`{written(value)}`" for value in (least, most))

    return table(("name", "default", "least", "most"), rows())


def policy_files() -> str:
    """The files of a bus, with their sizes."""

    def rows() -> Iterator[tuple[str, ...]]:
        yield "`policy.yaml`", "1", _size(MAX_FILE_BYTES), str(yaml_tree.MAX_DEPTH)
        yield (
            "`schemas/*.json`",
            f"{MAX_SCHEMAS:,}",
            _size(MAX_SCHEMA_BYTES),
            str(json_tree.MAX_DEPTH),
        )
        yield "`keys/*.yaml`", "one a bot", _size(MAX_KEY_FILE_BYTES), str(yaml_tree.MAX_DEPTH)
        yield f"`{bus_file.FILE}`", "1", _size(bus_file.MAX_BUS_FILE_BYTES), "-"
        yield "`credentials/*.toml`", "-", _size(credentials.MAX_FILE_BYTES), "-"
        yield "`.sealbus/relay.toml`", "1", _size(secrets.MAX_FILE_BYTES), "-"

    return table(("file", "how many", "largest", "deepest nesting"), rows())


def _scaled(value: int, units: Mapping[str, int]) -> str:
    return next(
        f"{value // size}{name}"
        for name, size in units.items()
        if value % size == 0 and size <= max(value, 1)
    )


def _duration(ms: int) -> str:
    return _scaled(ms, {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1})


def _size(size: int) -> str:
    return _scaled(size, {"TiB": 1024**4, "GiB": 1024**3, "MiB": 1024**2, "KiB": 1024, "B": 1})
