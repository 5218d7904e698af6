"""Certificates as files: those of a bus, and those of the nodes of a cluster."""
