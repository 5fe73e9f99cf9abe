"""Scoring engines: what a model answers, and how sure it is."""
