"""What runs inside the sandbox: the standard library alone, in a Python that knows nothing of this project."""
