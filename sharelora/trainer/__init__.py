"""A Trainer on any engine that resumes bit by bit; it knows no task.

May import: reporting, data, tuner, support. Begin with `adapter`, then `exact`.
"""
