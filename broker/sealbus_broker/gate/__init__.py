"""The gate decides which messages may pass. It is pure: it has no file, no network and no clock.

``judge`` (judge.py) is the way in. ``verdict`` has the values that go in and come out, ``policy``
the values by which it judges, and ``ledger`` the meaning of a nonce that was seen before.
"""
