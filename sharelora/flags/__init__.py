"""Command lines: one parser, dataclasses as flags, the flags of sharing and grouping, and upstream's names.

May import: layer_groups, trainer and what is below them. Begin with `parser`, then `sharing`.
"""
