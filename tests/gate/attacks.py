"""Every attack on the gate, with the check that must stop it. They are also the vectors in ``tests/vectors/envelopes.json``.

Each differs from an honest message in one thing, so that with its check taken out it would be accepted; where it would not,
``without`` says what stops it then.
"""

from __future__ import annotations

from tests.gate.attacks_after import CATALOGUE as AFTER
from tests.gate.attacks_alone import CATALOGUE as ALONE

ATTACKS = (*ALONE.scenarios, *AFTER.scenarios)
