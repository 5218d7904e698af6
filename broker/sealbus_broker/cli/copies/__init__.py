"""The streams of a bus a second time: as a folder of files, or at another site."""
