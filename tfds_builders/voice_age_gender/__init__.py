"""Recordings of voices, by the user or of a published corpus."""
