"""The code that runs inside the sandbox: standard library only, in a Python that does not see this project."""
