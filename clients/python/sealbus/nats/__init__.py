"""One NATS connection: its bytes, its background work, and why there is none."""
