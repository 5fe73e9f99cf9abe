"""Memory: what a run will need, before anything is loaded, what the machine has, and what to change if it is too much.

May import: tuner, plan, support. Begin with `estimate`.
"""
