"""What holds for every test: how long properties are tried, how many tests run beside each other, and which signals processes heed.

``HYPOTHESIS_PROFILE=fuzz`` for a long run, else ``ci``: short, and the same each time.
"""

from __future__ import annotations

import os
import shutil
import signal
from inspect import ismodule
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["sealbus_broker.testing.plugin"]  # where it is installed, it is there already

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True, suppress_health_check=_SLOW)
settings.register_profile("fuzz", max_examples=50_000, deadline=None, suppress_health_check=_SLOW, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

IN_MEMORY = Path("/dev/shm")  # noqa: S108  # pytest makes a folder of its own in it, for this user alone
ROOM_BYTES = 4 * 1024**3
"""The tests' files take less than one gigabyte at a time."""


def pytest_configure() -> None:
    """Keep the tests' files in memory where that has room: nats-server waits for its disk after every message, and a disk that
    others use too may keep it waiting for ten seconds."""
    if IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free >= ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


MOST_WORKERS = 8
"""More would not be done sooner: the longest file takes as long as an eighth of all."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three processes a core: two thirds of the time a test waits for a server to start or a deadline to pass."""
    return min(MOST_WORKERS, 3 * (os.cpu_count() or 1))


STARTERS = frozenset(
    {
        "benchmarks.attacks",
        "benchmarks.bus",
        "sealbus_broker.server.process",
        "subprocess",
        "tests.attacks.ground",
        "tests.cli.bus",
        "tests.cli.command",
        "tests.docs.transcript",
        "tests.faults.market",
        "tests.faults.yard",
        "tests.e2e.shop",
        "tests.packaging.release",
        "tests.ports",
        "tests.relay.scene",
    }
)
"""Modules by which tests start other processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as ``processes`` the files that use one of :data:`STARTERS`: `make test-fast` leaves them out."""
    marked: dict[ModuleType, bool] = {}
    for item in items:
        if isinstance(item, pytest.Function):
            if item.module not in marked:
                used = (
                    getattr(it, "__name__" if ismodule(it) else "__module__", "") for it in vars(item.module).values()
                )
                marked[item.module] = not STARTERS.isdisjoint(name for name in used if isinstance(name, str))
            if marked[item.module]:
                item.add_marker("processes")


def _leave_alone(*_: object) -> None:
    """Do as whoever started the tests wishes."""


# A shell starts what runs in the background with SIGINT ignored, and nohup with SIGHUP: children would inherit that, and tests send both.
# A handler is not inherited, and does here what ignoring does.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, _leave_alone)
