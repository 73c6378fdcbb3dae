"""UTKFace."""

SOURCES = ("*utkface*", "*.jpg")
"""Entries of a manual directory that may be this dataset, lower case: what else lies there does not matter."""
