"""An operator's session over real nodes: ``python -m tests.tui.session DIRECTORY`` saves a screenshot of
each step. `test_session` runs it and checks each step.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from textual.pilot import Pilot

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.app.widgets.grid import Grid
from grapevine_tui.config.settings import load_settings
from grapevine_tui.host.local import Host
from tests.tui.runs import WAIT_S, Bench
from tests.tui.stage import text_of

FAST_CONFIG: Final = "gossip_interval = 0.2\npeer_timeout = 3\nanti_entropy = {interval = 2}\n"


class Operator:
    """Types keys and waits for text on the screen; `frames` contains a screenshot of each step."""

    def __init__(self, app: GrapevineApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot
        self.frames: dict[str, str] = {}

    @property
    def text(self) -> str:
        return text_of(self.app)

    async def sees(self, step: str, *expected: str, no: tuple[str, ...] = ()) -> None:
        """Waits until all of `expected` is on the screen and nothing of `no`."""

        def is_so() -> bool:
            text = self.text
            return all(each in text for each in expected) and not any(each in text for each in no)

        try:
            async with asyncio.timeout(WAIT_S):
                while not is_so():
                    await self.pilot.pause(0.05)
        except TimeoutError:
            raise AssertionError(
                f"{step}: never saw {expected} without {no}:\n{self.text}"
            ) from None
        self.frames[step] = self.app.export_screenshot(title=step)


async def seek(operator: Operator, table: Grid, key: str) -> None:
    """Moves the cursor down to the row of `key`."""
    await operator.pilot.press("g")
    while table.cursor_key != key:
        await operator.pilot.press("j")


async def play(directory: Path, bench: Bench) -> dict[str, str]:
    """Runs the whole session. Returns a screenshot of each step by name."""
    ClusterKey.generate().save(directory / "cluster.key")
    (directory / "node.toml").write_text(
        f"# ours\nname = 'ams-1'\n{FAST_CONFIG}key_files = ['{directory}/cluster.key']\n"
    )
    (directory / "other.toml").write_text(FAST_CONFIG)
    common = ("-c", "other.toml", "-k", "cluster.key")
    bob, bob_at = bench.started(*common, "--name", "bob", "--zone", "eu-west")
    carol, _ = bench.started(*common, "--name", "carol", "--zone", "us-east", "--peer", bob_at)
    flags = {
        "app.config": str(directory / "node.toml"),
        "port": "0",
        "app.state_dir": str(directory / "us"),
    }
    settings = load_settings(flags, {}, directory=directory).with_keys()
    host = Host(settings.node, settings.state_dir, settings=settings)
    app = GrapevineApp(host, settings)
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        operator = Operator(app, pilot)
        sees, press = operator.sees, pilot.press
        await sees("1 alone", "No peers yet", "127.0.0.1:")
        # Join: one address is enough.
        await press("escape", "c", *bob_at, "enter")
        await sees("2 joined", "● up      bob", "● up      carol", "Peers 2 up")
        # A peer falls silent and recovers.
        bob.process.send_signal(signal.SIGSTOP)
        await sees("3 bob is stale", "◐ silent  bob")
        bob.process.send_signal(signal.SIGCONT)
        await sees("4 bob is back", "● up      bob", no=("◐ silent  bob",))
        # Filter messages.
        bob.ask(cmd="broadcast", text="deploy of api finished")
        carol.ask(cmd="broadcast", text="disk 91 % on db-3")
        await sees("5 messages", "deploy of api finished", "disk 91 % on db-3")
        await press("escape", "2", "slash", *"from:carol", "enter")
        await sees("6 filtered", "disk 91 % on db-3", "from:carol", no=("deploy of api",))
        await press("escape")
        # Details of a peer, and a direct message to it.
        await press("1", "g", "enter")
        await sees("7 details", "round trip", "rounds", "send limit")
        await press("greater_than_sign", *"thanks", "enter")
        received = await asyncio.to_thread(bob.expect, "message", text="thanks")
        assert received["direct"], "it was for bob only"
        await sees("8 sent to one", "sent to bob")
        # Trace to all.
        await press("escape", "t", "plus", *"who has this", "enter")
        await sees("9 traced", "who has this", "100 %", "2 of 2", "All 2 members have it")
        await press("escape")
        # Change a setting and save it.
        await press("escape", "C")
        await sees("10 settings", "Settings", "node.toml")
        table = app.screen.query_one("#settings", Grid)
        await seek(operator, table, "fanout")
        await press("enter", "ctrl+u", "5", "enter")
        await sees("11 changed", "1 changed, ctrl+s saves")
        await press("ctrl+s")
        await sees("12 saved", "saved in", no=("1 changed",))
        kept = (directory / "node.toml").read_text()
        assert tomllib.loads(kept)["fanout"] == host.config.fanout == 5
        assert kept.startswith("# ours\n")
        # Leave.
        await press("escape", "q", "enter")
        left = await asyncio.to_thread(bob.expect, "peer", name="ams-1", state="disconnected")
        assert left["reason"] == "left"
        async with asyncio.timeout(60):
            while app.is_running:  # bob knows before the app has ended
                await pilot.pause(0.05)
    assert app.return_code == 0
    return operator.frames


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument(
        "directory",
        type=Path,
        nargs="?",
        default=Path("session"),
        help="for the screenshots [session]",
    )
    directory = parser.parse_args().directory
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        try:
            frames = asyncio.run(play(Path(scratch), bench))
        finally:
            bench.close()
    directory.mkdir(parents=True, exist_ok=True)
    for step, screenshot in frames.items():
        (directory / f"{step.replace(' ', '-')}.svg").write_text(screenshot)
    sys.stdout.write(f"{len(frames)} screenshots in {directory}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
