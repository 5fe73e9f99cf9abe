"""Results for people: result.json, comparisons, tables and figures.

May import: convert, memory, tuner, plan, support. Begin with `results`, then `compare`; `document` is the
opening that all generated documents have.
"""
