"""The `sharelora` command: one file per subcommand.

May import: everything. Begin with `main`.
"""
