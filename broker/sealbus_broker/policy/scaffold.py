"""What ``sealbus init`` writes: a small bus that works and can be grown into one's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from sealbus.errors import InvalidInput
from sealbus.subjects import check_name

BOTS: Final = ("greeter", "listener", "clock", "operator")
"""The bots of the template's policy, which get keys at once."""

_IGNORE: Final = "# Private keys and the server's state: never commit them.\n.sealbus/\ncredentials/\n"


def scaffold(folder: Path, bus: str) -> list[Path]:
    """Write a new bus's files into ``folder``, which is made if it is missing; return what was written.

    Raises :class:`InvalidInput` if any of the files is there already: nothing is overwritten, and then nothing is written.
    Raises ``OSError`` if the folder cannot be written.
    """
    check_name(bus, "bus")
    template = files("sealbus_broker.policy") / "template"
    contents = {folder / "policy.yaml": (template / "policy.yaml").read_text().replace("BUS_NAME", bus)}
    for schema in sorted((template / "schemas").iterdir(), key=lambda file: file.name):
        contents[folder / "schemas" / schema.name] = schema.read_text()
    contents[folder / ".gitignore"] = _IGNORE
    taken = [path for path in contents if path.exists() or path.is_symlink()]
    if taken:
        raise InvalidInput(f"{taken[0]} exists already", hint="choose an empty folder; nothing was written")
    for path, text in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "keys").mkdir(exist_ok=True)
    return list(contents)
