"""What a run needs in memory, before anything is loaded, and what to change where that is too much.

May import: tuner, plan, support. Begin with `estimate`.
"""
