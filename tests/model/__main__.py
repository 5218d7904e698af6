"""Search for a schedule that breaks a promise, from scratch and with a rule taken out.

::

    python -m tests.model                      all rules apply: none is found
    python -m tests.model --without store-by   a schedule that the rule prevents
    python -m tests.model --seeds 1000         schedules from seeds, under a policy's default limits
    python -m tests.model --list
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections import Counter

import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from sealbus_broker.gate.policy import Limits
from tests.model.rules import RULES
from tests.model.schedules import Schedules, play


def main() -> int:
    """Run from the command line. Returns 1 if a schedule was found."""
    names = {rule.name: rule for rule in RULES}
    parser = argparse.ArgumentParser(
        description="Search schedules of pauses, kills and copies in simulated time."
    )
    parser.add_argument("--without", choices=names, metavar="RULE", help="take this rule out")
    parser.add_argument("--examples", type=int, default=2_000, help="how many schedules to try")
    parser.add_argument("--steps", type=int, default=40, help="how many steps each may have")
    parser.add_argument(
        "--seeds", type=int, help="play this number of schedules from seeds instead"
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--list", action="store_true", help="the names of the rules")
    given = parser.parse_args()
    if given.list:
        sys.stdout.write("".join(f"{name}\n" for name in names))
        return 0
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    rule = None if given.without is None else names[given.without]
    with contextlib.nullcontext() if rule is None else rule.out():
        short_ms = 0 if rule is None else rule.short_ms
        if given.seeds is not None:
            return _play(range(given.seed, given.seed + given.seeds), given.steps, short_ms)
        return _search(given.examples, given.steps, short_ms)


def _play(seeds: range, steps: int, short_ms: int) -> int:
    counts: Counter[str] = Counter()
    for seed in seeds:
        try:
            bus = play(seed, steps, limits=Limits(), short_ms=short_ms)
        except AssertionError as error:
            sys.stdout.write(f"seed {seed} breaks a promise:{error}\n")
            return 1
        counts["schedules"] += 1
        counts["honest messages"] += len(bus.sender.told)
        counts.update(f"  {told.outcome or 'unresolved'}" for told in bus.sender.told)
        counts["envelopes captured"] += len(bus.captured)
        counts["handled"] += len(bus.subscriber.handled)
    for name, count in counts.items():
        sys.stdout.write(f"{name:<24}{count}\n")
    sys.stdout.write("accepted twice, refused and handled, or accepted and lost: none\n")
    return 0


def _search(examples: int, steps: int, shorter_ms: int) -> int:
    class Machine(Schedules):
        short_ms = shorter_ms

    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )

    try:
        run_state_machine_as_test(Machine, settings=chosen)
    except AssertionError as error:
        sys.stdout.write(f"found:{error}\n")
        return 1
    sys.stdout.write(f"{examples} schedules: none breaks a promise\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
