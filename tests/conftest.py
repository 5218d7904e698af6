"""Settings for every test: the length of property tests, the number of workers, and signals.

``HYPOTHESIS_PROFILE=fuzz`` is for a long run. The default is ``ci``: short, and the same each time.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import zlib
from collections.abc import Generator
from functools import cache
from inspect import ismodule
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = [
    "sealbus_broker.testing.plugin",  # an installed package loads it already
    "tests.quick_handlers",
    "tests.scene_fixtures",
]

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=_SLOW
)
settings.register_profile(
    "fuzz", max_examples=50_000, deadline=None, suppress_health_check=_SLOW, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# pytest makes a folder of its own in it, for this user alone.
IN_MEMORY = Path("/dev/shm")  # noqa: S108
ROOM_BYTES = 4 * 1024**3
"""The tests' files take less than one gigabyte at a time."""


def pytest_configure() -> None:
    """Keep the tests' files in memory if that has room.

    nats-server waits for its disk after every message. A disk that others use can take ten seconds.
    """
    if (
        IN_MEMORY.is_dir()
        and os.access(IN_MEMORY, os.W_OK)
        and shutil.disk_usage(IN_MEMORY).free >= ROOM_BYTES
    ):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


MOST_WORKERS = 6
"""More workers would not be faster: six have two cores busy all the time. And the more processes
share a core, the longer each of them may have no turn."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three workers for each core, because tests wait a part of the time, for a server or a
    deadline. Tests that only compute have one for each core: each worker collects all tests, which
    takes 10 s.
    """
    a_core = 1 if "not processes" in config.option.markexpr else 3
    return min(MOST_WORKERS, a_core * (os.cpu_count() or 1))


STARTERS = frozenset(
    {
        "sealbus_broker.server.process",
        "subprocess",
        "tests.fork_server",
        "tests.ports",
    }
)
"""Modules that start other processes, or that tests need for one."""


LONGEST = (
    "tests/e2e/test_enrolment.py",
    "tests/e2e/test_tls_renewal.py",
    "tests/faults/test_sharing.py",
    "tests/faults/test_stops.py",
    "tests/cli/test_streams_of_commands.py",
    "tests/faults/test_nodes.py",
    "tests/cli/test_bus_keys.py",
    "tests/e2e/test_receiving.py",
    "tests/faults/test_histories.py",
    "tests/protocol/test_fuzz.py",
    "tests/cli/test_pub.py",
    "tests/gate/test_fuzz.py",
    "tests/e2e/test_cluster.py",
    "tests/vectors/test_planted_mistakes.py",
)
"""The files that take longest, half a minute and more. They start first, so that none of them runs
alone after all others have ended.
"""


def _place(item: pytest.Item) -> tuple[int, int]:
    """The place of an item's file among those that several workers share.

    The others are mixed, so that files that wait run beside files that compute.
    """
    file = item.nodeid.partition("::")[0]
    if file in LONGEST:
        return LONGEST.index(file), 0
    return len(LONGEST), zlib.crc32(file.encode())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files for several workers, and mark those that use one of :data:`STARTERS` as
    ``processes``.

    ``make test-fast`` leaves the marked files out.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_place)
    for item in items:
        if isinstance(item, pytest.Function) and _starts_processes(item.module.__name__):
            item.add_marker("processes")


@cache
def _starts_processes(name: str) -> bool:
    """Whether a module is one of :data:`STARTERS`, or uses one by way of other modules of tests."""
    seen: set[str] = set()
    waiting = {name}
    while waiting:
        seen |= waiting
        if waiting & STARTERS:
            return True
        waiting = set().union(*map(_used, waiting)) - seen
    return False


@cache
def _used(name: str) -> frozenset[str]:
    """The modules of the values in a module of tests. Other modules use none of tests."""
    if not name.startswith(("tests.", "benchmarks.")):
        return frozenset()
    names = (
        getattr(one, "__name__" if ismodule(one) else "__module__", None)
        for one in vars(sys.modules[name]).values()
    )
    return frozenset(one for one in names if isinstance(one, str))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the collected tests, some 200 MB, out of the garbage collector's sight.

    Otherwise each of its full runs looks at all of them, and takes longer than most tests. Nothing
    that is collected is garbage.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _leave_alone(*_: object) -> None:
    """Ignore the signal, as the program that started the tests does."""


# A shell starts background commands with SIGINT ignored, and nohup ignores SIGHUP. Children would
# inherit that, and tests send both signals. A handler is not inherited, and an empty one has the
# same effect here.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, _leave_alone)
