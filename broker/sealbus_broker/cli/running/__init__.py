"""``sealbus up`` and ``relay``: the processes of a bus on this machine, and their log."""
