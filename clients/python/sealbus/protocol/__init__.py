"""The protocol: bytes into values and back, and the rules for them. Pure: no clock, no file, no
network."""
