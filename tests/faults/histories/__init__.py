"""Seeded schedules of faults on a real bus, and checks of the histories that its processes wrote.

* :mod:`~tests.faults.histories.schedule`: a schedule, made from a seed. It is pure.
* :mod:`~tests.faults.histories.history`: the events that a process writes down.
* :mod:`~tests.faults.histories.actors`: the processes of the bots, and of the attacker.
* :mod:`~tests.faults.histories.relaying`: the process of a relay.
* :mod:`~tests.faults.histories.bus`: the bus, on one node or three, and its processes.
* :mod:`~tests.faults.histories.cables`: networks that can be cut.
* :mod:`~tests.faults.histories.faults`: the faults, each with its healing.
* :mod:`~tests.faults.histories.playing`: a schedule from its start to the histories.
* :mod:`~tests.faults.histories.check`: the promises, compared with the histories. It is pure.
* :mod:`~tests.faults.histories.plants`: mistakes that a relay or a subscriber makes on request.
* :mod:`~tests.faults.histories.report`: many schedules, together.
"""
