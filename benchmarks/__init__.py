"""Sealbus beside what people use now: one machine, one run, ratios. ``make bench`` runs it; ``docs/performance.md`` reads it."""
