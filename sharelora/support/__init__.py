"""What every room needs and none owns: errors that the user can fix, whole files, the hub, numbers and sizes as text.

May import: the standard library alone. Begin with `errors`.
"""
