"""Files to policy: ``policy.yaml``, ``schemas/`` and ``keys/`` become a :class:`Policy`, or problems.

``loader`` is the way in. ``document`` reads a file and knows the place of each value. ``reader`` checks
the values. ``problems`` reports a problem to people and programs.
"""
