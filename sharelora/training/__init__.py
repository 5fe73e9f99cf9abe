"""Training jobs, from a parsed command line to the files of a run.

May import: everything but continual and cli. Begin with `job`.
"""
