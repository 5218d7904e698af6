"""Sealbus beside the systems that people use now: one machine, one run, ratios.

``make bench`` runs it, and ``docs/performance.md`` explains the results.
"""
