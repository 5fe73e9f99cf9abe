"""Tuning: one job, told four times: instructions, GLUE, data-to-text (nlg) and images (vision); and grids of runs.

May import: evaluation, flags, layer_groups, trainer and what is below them; not continual and cli. Begin with `job`
(what a task says about itself), then `resolve` (the door) and `runner` (the one way to run it).
"""
