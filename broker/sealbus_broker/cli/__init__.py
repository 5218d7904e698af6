"""The ``sealbus`` command: a module for each command or group, in rooms.

``main`` puts them together.
"""
