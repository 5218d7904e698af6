"""The files of a bus, made and checked before it runs."""
