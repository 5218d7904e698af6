"""A bot's life on the bus: its states, its session, and what its author is told of them."""
