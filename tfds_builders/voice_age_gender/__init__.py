"""Recordings of voices, by the user or of a published corpus."""

VERSION = "1.1.0"  # of the builder; grows when the examples that it prepares change
