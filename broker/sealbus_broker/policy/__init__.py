"""From files to a policy: a folder becomes a :class:`Policy`, or a list of problems.

``loader`` is the way in. ``document`` reads a file and knows the place of each value. ``reader``
checks the values. ``problems`` reports a problem to people and programs.
"""
