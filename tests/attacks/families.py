"""All families, in the order of the table."""

from __future__ import annotations

from typing import Final

from tests.attacks import (
    admission,
    amplification,
    binding,
    bursts,
    causes,
    certificates,
    connections,
    deputy,
    encoding,
    exhaustion,
    files,
    freshness,
    grants,
    identity,
    schemas,
    seal,
    services,
    subjects,
    terminal,
    time_of_check,
)
from tests.attacks.corpus import Attack
from tests.gate.scenarios import Scenario

FAMILIES: Final = (
    admission.FAMILY,
    identity.FAMILY,
    connections.FAMILY,
    certificates.FAMILY,
    seal.FAMILY,
    encoding.FAMILY,
    binding.FAMILY,
    bursts.FAMILY,
    freshness.FAMILY,
    time_of_check.FAMILY,
    causes.FAMILY,
    grants.FAMILY,
    subjects.FAMILY,
    schemas.FAMILY,
    exhaustion.FAMILY,
    amplification.FAMILY,
    deputy.FAMILY,
    services.FAMILY,
    files.FAMILY,
    terminal.FAMILY,
)

ATTACKS: Final[tuple[Attack, ...]] = tuple(
    attack for family in FAMILIES for attack in family.attacks
)

NAMED: Final = {attack.name: attack for attack in ATTACKS}
"""All attacks by name. The demo and the benchmark choose from them."""

RUNNING: Final = tuple(attack for attack in ATTACKS if not attack.alone)
"""The attacks that are tried on a running bus."""

MESSAGES: Final = tuple(attack for attack in ATTACKS if isinstance(attack.case, Scenario))
"""The attacks that are tried on the gate alone."""

SCENARIOS: Final = tuple(attack.case for attack in MESSAGES if isinstance(attack.case, Scenario))
"""The same attacks as scenarios, for the gate's tests and the vectors."""
