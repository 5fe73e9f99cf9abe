"""The `sharelora` command: one file per subcommand.

May import: everything. Begin with `commands`.
"""

from typing import TYPE_CHECKING

from sharelora.support.lazy import make_lazy

if TYPE_CHECKING:
    from sharelora.cli.commands import COMMANDS, Command, entry, main

__all__ = ["COMMANDS", "Command", "entry", "main"]

make_lazy(__name__)
