"""One target under atheris: ``python -m tests.fuzz.drive TARGET`` and what libFuzzer takes. It never returns: libFuzzer ends the process."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped, unused-ignore]  # in .venv-fuzz only; it ships no types

with atheris.instrument_imports(include=["sealbus", "sealbus_broker", "tests.fuzz.targets"]):
    from tests.fuzz.targets import ALL, TARGETS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, (ALL if name == "all" else TARGETS[name]).run)
    atheris.Fuzz()
