"""The bus's own subjects (``sealbus.…``): each request to the bus, and the relay's answer."""
