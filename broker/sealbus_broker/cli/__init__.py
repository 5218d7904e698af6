"""The ``sealbus`` command: a module for each command or group. ``main`` puts them together."""
