"""Scoring engines: what a model answers, and how sure it is.

May import: flags and what is below them, never training. Begin with `commands` (what can be run), then
`batching` (how every engine runs) and `multiple_choice`; `exams` holds the exams as data.
"""
