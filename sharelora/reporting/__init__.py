"""What a run leaves for people: result.json, comparisons, tables and figures.

May import: convert, memory, tuner, plan, support. Begin with `results`.
"""
