"""A NATS server in memory, for tests. It is not for production: it keeps nothing."""
