"""How each peer is attacked. What is tried stands in :mod:`benchmarks.attacks`."""
