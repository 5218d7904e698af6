"""``sealbus keys``: the keys of bots and of the bus, and the sessions that they opened."""
