"""Adience."""

VERSION = "1.0.0"  # of the builder; grows when the examples that it prepares change
SOURCES = ("fold_?_data.txt", "aligned", "aligned.t*", "faces", "faces.t*")
"""Entries of a manual directory that may be this dataset, lower case: what else lies there does not matter."""
