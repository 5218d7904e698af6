"""Each error is drawn in the tree at the top of its module, and users can import it."""

from __future__ import annotations

import re

import sealbus
import sealbus.errors
import sealbus_broker.errors
from sealbus import SealbusError
from sealbus_broker.errors import RelayError


def drawn(docstring: str | None) -> set[str]:
    return set(re.findall(r"[├└]── (\w+)", docstring or ""))


def children(base: type[SealbusError]) -> set[str]:
    """The errors directly below ``base``, of the module's own package.

    An error further below, such as a bot's ``Stopped``, is caught under the name of a drawn one.
    """
    package = base.__module__.partition(".")[0]
    ours = (one for one in base.__subclasses__() if one.__module__.split(".")[0] == package)
    return {one.__name__ for one in ours}


def test_the_tree_draws_each_error_of_the_client() -> None:
    assert drawn(sealbus.errors.__doc__) == children(SealbusError)


def test_each_error_of_the_client_can_be_imported() -> None:
    assert drawn(sealbus.errors.__doc__) <= set(sealbus.__all__)


def test_the_tree_draws_each_error_of_a_relay() -> None:
    assert drawn(sealbus_broker.errors.__doc__) == {RelayError.__name__, *children(RelayError)}
