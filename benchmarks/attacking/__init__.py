"""The ways to attack each peer. :mod:`benchmarks.attacks` has the list of attacks."""
