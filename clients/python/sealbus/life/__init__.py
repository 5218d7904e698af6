"""A bot's life on the bus: its states, its session, and the hooks that tell its author."""
