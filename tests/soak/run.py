"""One run of the tests, and its result."""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ET  # pytest of this machine wrote it
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.soak.load import busy

PARALLEL: Final = ("-n", "auto", "--dist", "loadscope", "--no-loadscope-reorder")
"""The options of ``make test``."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one run."""

    number: int
    load: int
    """Processes that computed during the run."""
    seconds: float
    passed: int
    failed: int
    skipped: int
    failures: tuple[str, ...]
    """The tests that failed. If pytest itself failed, a sentence about that."""

    @property
    def green(self) -> bool:
        """Whether at least one test passed and none failed."""
        return not self.failures and self.passed > 0

    def row(self) -> dict[str, Any]:
        """The run as a JSON object."""
        return {**asdict(self), "green": self.green}


def perform(number: int, load: int, arguments: Sequence[str], folder: Path) -> Run:
    """Run pytest with ``arguments`` beside ``load`` busy processes.

    Its output and its report go into ``folder``.
    """
    name = folder / f"run-{number:02}"
    report, output = name.with_suffix(".xml"), name.with_suffix(".log")
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *PARALLEL, f"--junitxml={report}", *arguments]
    begun = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(busy(load))
        log = stack.enter_context(output.open("wb"))
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return _told(number, load, time.monotonic() - begun, code, report, output)


def _told(number: int, load: int, seconds: float, code: int, report: Path, output: Path) -> Run:
    """The content of the report, or pytest's exit code if there is no report."""
    if not report.exists():
        problem = f"pytest ended with {code} and without a report: see {output}"
        return Run(number, load, seconds, 0, 0, 0, (problem,))
    cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314  # as above
    bad = [
        case for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    # A test whose body and teardown both fail occurs twice.
    failures = dict.fromkeys(f"{case.get('classname')}::{case.get('name')}" for case in bad)
    if code and not failures:
        failures[f"pytest ended with {code}: see {output}"] = None
    passed = (
        len({(case.get("classname"), case.get("name")) for case in cases}) - len(failures) - skipped
    )
    return Run(number, load, seconds, max(0, passed), len(failures), skipped, tuple(failures))
