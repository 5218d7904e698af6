"""Counting what the interpreter does: the same in each run and on any machine, however busy it is.

Python's own work is counted, in bytecode instructions, not what libraries in C do: a loop over a thousand bots shows, a copy of a thousand
bots does not. Interpreters of different minor versions count differently, by some per cent.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def instructions(function: Callable[[T], object], arguments: Sequence[T]) -> list[int]:
    """How many instructions of bytecode ``function`` executes for each argument but the first.

    The first is not counted: Python 3.12 and later begin to trace some code only the second time.
    """
    count = 0

    def each(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            count += 1
        return each

    counts = []
    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # what others have it call when it runs, Hypothesis among them, would be counted
    sys.settrace(each)
    try:
        for argument in arguments:
            count = 0
            function(argument)
            counts.append(count)
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return counts[1:]
