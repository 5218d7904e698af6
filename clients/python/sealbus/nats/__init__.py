"""One NATS connection: its bytes, its background work, and the causes of a failed one."""
