"""The embedded nats-server: its process, its log, and the notice while it is stopped."""
