"""Live messages, which no stream keeps."""
