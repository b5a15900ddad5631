"""``grapevine-tui ctl stream``: the control protocol of a running node on stdin and stdout.

Invariants: bytes pass as they are, in both directions; nothing else is written to stdout. It ends when stdin
and the last reply do, or when the node stops.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import Final

import click

from grapevine_tui.background_writer import write_all
from grapevine_tui.cli.ctl_session import CtlSession
from grapevine_tui.control.client import connected
from grapevine_tui.control.lines import READ_CHUNK_BYTES
from grapevine_tui.process_exit import EXIT_FAILED, EXIT_OK

STDIN: Final = 0
STDOUT: Final = 1


@click.command()
@click.pass_context
def stream(context: click.Context) -> int:
    """Speak JSON Lines with a running node on stdin and stdout, as on its control socket.

    For programs: ssh HOST grapevine-tui ctl stream. Exit code 1 if the node stops before the end of stdin.
    """
    session: CtlSession = context.obj
    with connected(session.target) as sock:
        sock.settimeout(None)
        is_at_end = threading.Event()
        threading.Thread(
            target=_send_input, args=(sock, is_at_end), name="stdin", daemon=True
        ).start()
        while chunk := sock.recv(READ_CHUNK_BYTES):
            write_all(STDOUT, chunk)
    return EXIT_OK if is_at_end.is_set() else EXIT_FAILED


def _send_input(sock: socket.socket, is_at_end: threading.Event) -> None:
    """Send what comes from stdin; at its end tell the node, which then closes."""
    with suppress(OSError):  # the node stopped, which the other direction notices
        while chunk := os.read(STDIN, READ_CHUNK_BYTES):
            sock.sendall(chunk)
        is_at_end.set()
        sock.shutdown(socket.SHUT_WR)
