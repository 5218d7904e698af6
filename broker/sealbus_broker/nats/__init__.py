"""NATS and JetStream, as the relay and the tools speak to them."""
