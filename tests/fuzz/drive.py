"""One target under atheris: ``python -m tests.fuzz.drive TARGET``, and libFuzzer's arguments.

It never returns, because libFuzzer ends the process.
"""

from __future__ import annotations

import sys

# It is in .venv-fuzz alone, and ships no types.
import atheris  # type: ignore[import-untyped, unused-ignore]

from tests.fuzz.words import by_words

INSTRUMENTED = ["sealbus", "sealbus_broker", "tests.fuzz.targets", "tests.fuzz.file_targets"]

with atheris.instrument_imports(include=INSTRUMENTED):
    from tests.fuzz.targets import ALL, TARGETS

if __name__ == "__main__":
    name = sys.argv.pop(1)
    target = ALL if name == "all" else TARGETS[name]
    # The name is looked up at each call, because the fuzzer replaces the function later.
    bytewise = lambda data, most: atheris.Mutate(data, most)  # noqa: E731, PLW0108  # see above
    more = {"custom_mutator": by_words(target.seeds(), bytewise)} if target.is_text else {}
    atheris.Setup(sys.argv, target.run, **more)
    atheris.Fuzz()
