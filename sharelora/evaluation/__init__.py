"""Scoring engines: what a model answers, and how sure it is.

May import: flags and what is below them, never training. Begin with `multiple_choice`, then `exam`.
"""
