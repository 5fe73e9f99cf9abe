"""`python -m sharelora` is the `sharelora` command."""

from sharelora.cli.main import entry

entry()
