"""A bot and its tests, as docs/testing.md shows them."""
