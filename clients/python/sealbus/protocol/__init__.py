"""The protocol: bytes into values and back, and what must hold of them. Pure: no clock, no file, no
network."""
