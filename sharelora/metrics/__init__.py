"""Scores: pure functions on lists."""
