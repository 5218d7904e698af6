"""Counts the interpreter's work.

The count is the same in each run and on any machine, also on a busy one. It counts bytecode
instructions of Python, and not the work of libraries in C. A loop over a thousand bots shows, and a
copy of a thousand bots does not. The counts of minor versions of Python differ by some per cent.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def instructions(function: Callable[[T], object], arguments: Sequence[T]) -> list[int]:
    """The instructions of bytecode that ``function`` executes, for each argument except the first.

    The first is not counted, because Python 3.12 and later begin to trace some code only the second
    time.
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
    gc.disable()  # callbacks of others, such as Hypothesis, would be counted
    # Python 3.12 reports no opcodes if no frame has asked before settrace(): python/cpython#103615
    sys._getframe().f_trace_opcodes = True
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
    assert all(counts[1:]), "this Python reports no opcodes to a trace function"
    return counts[1:]
