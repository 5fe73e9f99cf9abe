"""`python -m sharelora` is the `sharelora` command."""

from sharelora.cli.commands import entry

entry()
