"""The bus's own subjects (``sealbus.…``): requests of bots, which the relay answers itself."""
