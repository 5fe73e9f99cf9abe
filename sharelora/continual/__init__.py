"""Tasks tuned one after the other with one adapter, every one of them scored after every stage.

May import: everything but cli. Begin with `sequence`, then `stages`.
"""
