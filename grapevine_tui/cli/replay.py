"""``grapevine-tui ctl record`` and ``grapevine-tui replay``: what a node reports, in a file, and shown again.

Invariants: a recording is a new file; recording costs the node what an attached app costs it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from grapevine_tui import logs
from grapevine_tui.cli.ctl_session import CtlSession
from grapevine_tui.control.target import Target
from grapevine_tui.text import printable

POLL_INTERVAL_S: Final = 1.0  # between two looks at the tables


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--for", "for_s", type=float, metavar="SECONDS", help="Stop after so long")
@click.pass_context
def record(context: click.Context, file: str, for_s: float | None) -> int:
    """Record what a running node reports in the new FILE, until Ctrl+C.

    The file (gzipped JSON Lines) has messages in clear. grapevine-tui replay FILE shows it.
    """
    session: CtlSession = context.obj
    frames = asyncio.run(_record(session.target, Path(file), for_s))
    click.echo(f"recorded {frames:,} objects in {printable(file)}")
    return 0


async def _record(target: Target, path: Path, for_s: float | None) -> int:
    """Record until SIGINT, SIGTERM, the end of `for_s` or of the node; return the number of frames. Raises
    NodeUnreachable, OSError."""
    from grapevine_tui.host.model import Model
    from grapevine_tui.remote.host import RemoteHost
    from grapevine_tui.remote.recording import KEY_FRAME_INTERVAL_S, RecordingWriter

    host = RemoteHost(target, Model(max_messages=1))
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    deadline = None if for_s is None else loop.time() + for_s
    state_at = loop.time()
    pending: list[tuple[float, str, dict[str, Any]]] = []
    host.on_received = lambda kind, fields: pending.append((time.time(), kind, fields))
    await host.start()
    try:
        with RecordingWriter(path) as writer:
            while True:
                for each in pending:
                    writer.write(*each)
                pending.clear()
                is_over = deadline is not None and loop.time() >= deadline
                if is_over or stopped.is_set() or not host.is_connected:
                    return writer.frames
                host.refresh()
                if loop.time() - state_at >= KEY_FRAME_INTERVAL_S:
                    state_at = loop.time()
                    await host.fetch_state()
                left_s = POLL_INTERVAL_S if deadline is None else deadline - loop.time()
                try:
                    async with asyncio.timeout(max(0.0, min(POLL_INTERVAL_S, left_s))):
                        await stopped.wait()
                except TimeoutError:
                    pass
    finally:
        await host.leave(0.0)


@click.command()
@click.argument("file", metavar="FILE|STATE_DIR")
@click.option("--speed", type=float, default=1.0, metavar="N", help="N times as fast [1]")
@click.pass_obj
def replay(inherited: dict[str, Any] | None, file: str, speed: float) -> int:
    """Show a recording, or the history of a state directory, in the screens of the app, at any time of it.
    Nothing can be sent."""
    from grapevine_tui.app.on_terminal import run_on_terminal

    if not 0 < speed <= 1_000:
        raise click.UsageError(f"--speed: expected a number above 0 and up to 1,000, got {speed:g}")
    logs.to_null()
    return run_on_terminal(lambda: run_replay_app(dict(inherited or {}), Path(file), speed))


async def run_replay_app(flags: dict[str, Any], path: Path, speed: float) -> int:
    """Run the app over a recording or a history until it is quit. Raises InvalidRecording,
    HistoryUnavailable."""
    from grapevine_tui.app.replay import ReplayApp
    from grapevine_tui.cli.attach import attached_settings
    from grapevine_tui.config.settings import load_settings
    from grapevine_tui.history.database import HISTORY_FILE
    from grapevine_tui.host.model import Model
    from grapevine_tui.remote.history_tape import HistoryTape
    from grapevine_tui.remote.recording import Recording, Tape
    from grapevine_tui.remote.replay import ReplayClock, ReplayHost

    local = load_settings(flags, os.environ)
    clock = ReplayClock()

    def open_tape() -> Tape:
        return HistoryTape(path / HISTORY_FILE) if path.is_dir() else Recording(path)

    tape = await asyncio.to_thread(open_tape)
    host = ReplayHost(
        tape, Model(max_messages=local.messages, wall_clock=clock), clock, speed=speed
    )
    await host.start()
    settings = replace(attached_settings(host.config, local), alert="off")
    app = ReplayApp(host, settings, note=tape.problem)
    try:
        await app.run_async()
    finally:
        await host.leave(0.0)
    return app.exit_code
