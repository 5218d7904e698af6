"""Questions to a running bus: its health, its policy in force, and the records that it keeps."""
