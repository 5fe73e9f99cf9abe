"""Stands for a command: asks a server on this machine to run it, says what it said, and ends as it ended.

    python ask.py SOCKET WORDS ...

The server has everything imported, so that a run begins at once.
"""

from __future__ import annotations

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    chosen = {name: value for name, value in os.environ.items() if name.startswith("CKPT_CHAOS_")}
    server.sendall(json.dumps({"words": sys.argv[2:], "environment": chosen}).encode() + b"\n")
    answer = json.loads(server.makefile().readline())
print(answer["log"])
sys.exit(answer["code"])
