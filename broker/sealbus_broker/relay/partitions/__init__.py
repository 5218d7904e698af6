"""The relays share the partitions."""
