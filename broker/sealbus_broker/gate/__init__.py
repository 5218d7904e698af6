"""The gate: what may pass. Pure: no file, no network, no clock.

``judge`` (judge.py) is the way in; ``verdict`` has the values that go in and come out, ``policy`` what it judges by, and ``ledger`` the
meaning of a nonce that was seen before.
"""
