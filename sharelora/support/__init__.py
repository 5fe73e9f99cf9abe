"""Shared basics: errors that the user can fix, atomic files and folders, locks, the hub, numbers and sizes as text.

May import: only the standard library. Begin with `errors`.
"""
