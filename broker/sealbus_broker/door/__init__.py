"""The door: a process that admits bots, so that no message can delay a login."""
