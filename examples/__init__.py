"""Programs that show the bus at work."""
