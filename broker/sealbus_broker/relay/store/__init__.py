"""The streams that a relay writes, and the ledgers that it reads."""
