"""The files of ``sealbus init``: a small bus that works and can grow into one's own."""

from __future__ import annotations

import contextlib
from importlib.resources import files
from pathlib import Path
from typing import Final

from sealbus.protocol.subjects import check_name
from sealbus_broker.policy.bus_file import FILE as BUS_FILE
from sealbus_broker.policy.errors import InTheWay

BOTS: Final = ("greeter", "listener", "clock", "operator")
"""The bots of the template's policy. They get keys at once."""

_IGNORE: Final = (
    "# Private keys and the server's state: never commit them.\n.sealbus/\ncredentials/\n"
)


def scaffold(folder: Path, bus: str) -> list[Path]:
    """Write the files of a new bus into ``folder``, and return them. A missing folder is made.

    Raises :class:`InvalidInput` if any of the files exists: no file is overwritten, and then none
    is written. Raises ``OSError`` if the folder cannot be written. The files that were written
    until then are removed again.
    """
    check_name(bus, "bus")
    template = files("sealbus_broker.policy") / "template"
    contents = {
        folder / "policy.yaml": (template / "policy.yaml").read_text().replace("BUS_NAME", bus)
    }
    for schema in sorted((template / "schemas").iterdir(), key=lambda file: file.name):
        contents[folder / "schemas" / schema.name] = schema.read_text()
    contents[folder / ".gitignore"] = _IGNORE
    taken = [path for path in (*contents, folder / BUS_FILE) if path.exists() or path.is_symlink()]
    if taken:
        raise InTheWay(
            f"{taken[0]} exists already", hint="choose an empty folder; nothing was written"
        )
    made = _Made()
    try:
        for path, text in contents.items():
            made.folder(path.parent)
            made.file(path, text)
        made.folder(folder / "keys")
    except BaseException:
        made.undo()
        raise
    return list(contents)


class _Made:
    """The files that were made, so that they can be removed again."""

    def __init__(self) -> None:
        self._paths: list[Path] = []

    def folder(self, path: Path) -> None:
        missing = [one for one in (path, *path.parents) if not one.exists()]
        for one in reversed(missing):
            one.mkdir()
            self._paths.append(one)

    def file(self, path: Path, text: str) -> None:
        # ``x`` fails where a file has come since the look above.
        with path.open("x", encoding="utf-8") as file:
            self._paths.append(path)
            file.write(text)

    def undo(self) -> None:
        # A folder comes before its files here, and has to be empty to be removed.
        for path in reversed(self._paths):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
