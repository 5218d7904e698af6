"""The tutorial works as written: all its commands and programs, in order, on a new bus."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cli.bus import clean_environment, wait_until
from tests.ports import free_port
from tests.waiting import PATIENCE_S

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
LASTING = ("sealbus up", "python alarm.py")
"""Commands that run until Ctrl-C."""

HEARD = "sensor says: the cellar has 41.0 degrees"
"""The text on the alarm's terminal, as the tutorial says."""


@dataclass
class Block:
    """A code block of the document."""

    file: str | None
    """The file that the sentence before the block names."""
    language: str
    text: str


def blocks() -> list[Block]:
    """All code blocks, in order."""
    text = DOCUMENT.read_text()
    found = re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    made = []
    for before, language, text in found:
        named = re.search(r"`([\w./]+)`:$", before)
        made.append(Block(named[1] if named else None, language, text))
    return made


def matches(shown: str, said: str) -> bool:
    """Whether ``said`` is ``shown``, except for numbers, digests and the width of columns.

    A line ``…`` stands for any number of lines.
    """
    lines = _normal(shown).splitlines()
    parts = ["(?:.*\n)*" if line == "…" else re.escape(line) + "\n" for line in lines]
    return re.fullmatch("".join(parts), _normal(said) + "\n") is not None


def _normal(text: str) -> str:
    text = re.sub(r"\b[0-9a-f]{16}\b", "0", text)
    return re.sub(r" +", " ", re.sub(r"\d+", "0", text)).strip("\n")


@dataclass
class Terminal:
    """A terminal in which a command runs."""

    log: Path
    process: subprocess.Popen[bytes]

    def said(self) -> str:
        """The text of the log, with sentences as on a terminal. In the file they are JSON."""
        shown = []
        for line in self.log.read_text().splitlines():
            is_json = line.startswith("{") and line.endswith("}")
            row = json.loads(line) if is_json else {"text": line}
            shown.append(row.get("text") or row["event"])
        return "\n".join(shown)

    def wait_for(self, shown: str) -> None:
        """Wait until the log begins with ``shown``."""

        def is_there() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return matches(shown.rstrip("\n") + "\n…", self.said())

        wait_until(is_there)


class Reader:
    """A reader who does everything that the tutorial says."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._port = port
        programs = folder / "bin"
        programs.mkdir()
        for name, module in (("sealbus", "-m sealbus_broker "), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
            program.chmod(0o755)
        around = clean_environment().items()
        inherited = {name: value for name, value in around if not name.startswith("PYTEST_")}
        self._environment = inherited | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            # An older installation of Sealbus does not name the plugin.
            "PYTEST_PLUGINS": "sealbus_broker.testing.plugin",
        }

    def write(self, block: Block) -> None:
        """Write a file, or add to the end of one."""
        assert block.file is not None, f"which file is this?\n{block.text}"
        with (self.folder / block.file).open("a") as file:
            file.write(block.text)

    def run(self, commands: str) -> str:
        """Run commands to their end, and give their output."""
        server = f"nats://127.0.0.1:{self._port}"
        commands = commands.replace("init mybus", f"init mybus --server {server}")
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", commands],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    @contextmanager
    def terminal(self, command: str) -> Iterator[Terminal]:
        """Run a command until the end of the block, which sends Ctrl-C."""
        log = self.folder.parent / f"{command.rsplit(maxsplit=1)[-1]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield Terminal(log, process)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def test_the_tutorial_works(tmp_path: Path) -> None:
    install, init, *rest = blocks()
    assert "pip install" in install.text
    assert init.text == "sealbus init mybus\ncd mybus\n"
    reader = Reader(tmp_path, free_port())
    reader.run("sealbus init mybus")
    reader.folder = tmp_path / "mybus"
    said, commands = "", ""
    terminals: dict[str, Terminal] = {}
    with ExitStack() as bus, ExitStack() as alarm:
        for block in rest:
            if block.language == "sh":
                commands = block.text.strip()
                if commands in LASTING:
                    stack = bus if commands == "sealbus up" else alarm
                    terminals[commands] = stack.enter_context(reader.terminal(commands))
                else:
                    said = reader.run(block.text)
                if commands.endswith("cellar 41"):
                    terminals["python alarm.py"].wait_for(f"…\n{HEARD}")
            elif block.language != "text":
                reader.write(block)
            elif commands in LASTING:
                terminals[commands].wait_for(block.text)
            else:
                assert matches(block.text, said), said
    assert set(terminals) == set(LASTING)
    assert f"`{HEARD}`" in DOCUMENT.read_text()


def test_a_line_that_is_not_shown_does_not_match() -> None:
    assert matches("a\n…\nb 1\n", "a\nx\ny\nb   22\n")
    assert matches("a\n…\nb\n", "a\nb\n")
    assert matches("…\nb\n", "b\n")
    assert not matches("a\nb\n", "a\nx\nb\n")
    assert not matches("a\n…\nb\n", "a\nc\n")
