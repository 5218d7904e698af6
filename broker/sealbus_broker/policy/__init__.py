"""Files to policy: ``policy.yaml``, ``schemas/`` and ``keys/`` become one immutable :class:`Policy`, or located problems.

``loader`` is the way in. ``document`` reads a file and knows where everything in it stands, ``reader`` checks what it says, and
``problems`` is how trouble is told.
"""
