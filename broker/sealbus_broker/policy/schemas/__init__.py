"""The policy's JSON Schemas: their files, their faults, and the work that they may cost."""
