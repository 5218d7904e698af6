"""``python -m examples.robbery [ORDERS]``: the package's docstring explains it."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from examples.robbery.catalogue import ATTACKS
from examples.robbery.director import Director, Outcome, StageError
from examples.robbery.judging import faults
from examples.robbery.make_orders import FILE
from examples.robbery.order_book import Order, read_orders
from examples.robbery.report import show
from sealbus import InvalidInput, SealbusError


def main() -> int:
    """Run the demo and return its exit code.

    0: the bus held. 1: it did not. 2: the arguments were wrong. 130: it was interrupted.
    """
    about = "A robbery that fails, on a real NATS server."
    parser = argparse.ArgumentParser(prog="python -m examples.robbery", description=about)
    parser.add_argument(
        "orders",
        nargs="?",
        type=Path,
        default=FILE,
        help="JSON Lines file of orders (default: the shop's own)",
    )
    arguments = parser.parse_args()
    try:
        orders = read_orders(arguments.orders)
    except InvalidInput as error:
        return _complain(error.what, error.hint, 2)
    folder = Path(tempfile.mkdtemp(prefix="sealbus-robbery-"))
    try:
        outcome = asyncio.run(_perform(folder, orders))
    except (KeyboardInterrupt, asyncio.CancelledError):
        shutil.rmtree(folder, ignore_errors=True)
        return _complain("interrupted; everything was ended", None, 130)
    except (StageError, SealbusError) as error:
        return _complain(str(error), f"the logs are in {_keep_logs(folder)}", 1)
    wrong = faults(ATTACKS, outcome.findings, outcome.trade)
    show(outcome, wrong)
    if wrong:
        return _complain("the bus did not hold", f"the logs are in {_keep_logs(folder)}", 1)
    shutil.rmtree(folder)
    return 0


async def _perform(folder: Path, orders: list[Order]) -> Outcome:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:5.1f} s] {line}", flush=True)

    return await Director(folder, orders, say).perform()


def _keep_logs(folder: Path) -> Path:
    """Keep the logs, and delete the keys and streams, which are secret."""
    logs = folder / "logs"
    nats_log = folder / "bus" / ".sealbus" / "nats.log"
    if nats_log.exists():
        shutil.copy(nats_log, logs)
    shutil.rmtree(folder / "bus", ignore_errors=True)
    return logs


def _complain(what: str, hint: str | None, status: int) -> int:
    print(f"error: {what}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
