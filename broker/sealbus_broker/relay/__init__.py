"""NATS in, verdicts out: streams, admission of bots, the embedded nats-server."""
