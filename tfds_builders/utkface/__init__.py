"""UTKFace."""

VERSION = "1.1.0"  # of the builder; grows when the examples that it prepares change
SOURCES = ("*utkface*", "*.jpg")
"""Entries of a manual directory that may be this dataset, lower case: what else lies there does not matter."""
