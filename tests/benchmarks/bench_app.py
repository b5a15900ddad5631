"""Responsiveness of the app: ``python -m tests.benchmarks.bench_app [SECONDS]``.

Compares the app with a bare Textual app of as many widgets, in one run: time until ready, memory, the
share of a core while idle with fifty peers and at a thousand messages a second, the longest stall of the
loop at ten thousand, and the latency of a key meanwhile. A fake host replaces the node, so that only the app
is measured. It runs without a terminal: painting is measured up to the bytes. Then the demo, with its
simulated cluster, and a headless node: time until ready, and memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from textual.app import App, ComposeResult
from textual.containers import Horizontal, Vertical
from textual.pilot import Pilot
from textual.widgets import DataTable, Footer, RichLog, Static, TextArea

from grapevine_proto.events import TraceUpdated
from grapevine_tui.app.app import GrapevineApp
from grapevine_tui.config.settings import load_settings
from grapevine_tui.demo.demo import Demo
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.values import a_member, a_peer, a_trace, received

SIZE = (120, 36)
PEERS = 50
RATE_PER_S = 10_000
MODEST_RATE_PER_S = 1_000
HANDFUL = 500
DEMO_PEERS = 4
STARTS = 5
MEMBERS = 4_096
SLICE_S = 0.01  # messages arrive in groups, as datagrams do
PAYLOAD = b"disk 91 % on db-3, cleaning up what was left behind by the last run"


class BareApp(App[None]):
    """A Textual app with as many of Textual's widgets, which does nothing."""

    def compose(self) -> ComposeResult:
        yield Static("status")
        with Horizontal():
            yield Vertical(DataTable(), RichLog())
            yield Vertical(Static("traffic"), DataTable(), DataTable())
        yield TextArea()
        yield Footer()


def make(which: str) -> tuple[App[None], FakeHost]:
    host = FakeHost()
    host.peers = [a_peer(number, f"node-{number}") for number in range(PEERS)]
    app: App[None] = BareApp() if which == "bare" else GrapevineApp(host, FakeSettings())
    return app, host


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Probe:
    """Measures by how much the loop misses a timer of one millisecond, and the processor time of this
    thread meanwhile: other work on the machine adds to the first only."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.computed_s = 0.0
        self.late: list[float] = []

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watch())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _watch(self) -> None:
        while True:
            before, computed = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            self.computed_s = max(self.computed_s, time.thread_time() - computed)
            self.late.append(time.perf_counter() - before - 0.001)
            self.longest_s = max(self.longest_s, self.late[-1])


async def feed(host: FakeHost, seconds: float, rate_per_s: int = RATE_PER_S) -> int:
    """Sends so many messages a second for `seconds`. Returns their number."""
    started = time.perf_counter()
    sent = 0
    while (elapsed := time.perf_counter() - started) < seconds:
        # After a stall many messages are due: send no more at once than the node's own loop would handle
        # between two frames.
        for _ in range(min(int(elapsed * rate_per_s) - sent, HANDFUL)):
            host.happen(received(sent % PEERS, sent, PAYLOAD))
            sent += 1
        await asyncio.sleep(SLICE_S)
    return sent


async def press_and_see(pilot: Pilot[None], app: GrapevineApp) -> float:
    """Returns the seconds until a typed letter is in the box and painted."""
    draft = app.main.compose_box.draft
    before = len(draft.text)
    started = time.perf_counter()
    app.simulate_key("x")
    painted = asyncio.Event()
    while len(draft.text) == before:  # noqa: ASYNC110  the widget has no event to wait for
        await asyncio.sleep(0.001)
    draft.call_after_refresh(painted.set)
    await painted.wait()
    return time.perf_counter() - started


async def measure(which: str, seconds: float, started: float) -> None:
    app, host = make(which)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        print(f"{which}: ready after {(time.time() - started) * 1000:.0f} ms, imports included")
        if not seconds:
            return
        print(f"{which}: {memory_mb():.0f} MB at the start")
        await asyncio.sleep(1.0)
        before = time.process_time()
        await asyncio.sleep(seconds)
        idle = (time.process_time() - before) / seconds
        print(
            f"{which}: {idle:.1%} of a core idle" + (f", {PEERS} peers" if which != "bare" else "")
        )
        if isinstance(app, GrapevineApp):
            app.gc_controller.freeze()  # as on a real terminal
            before = time.process_time()
            sent = await feed(host, seconds, MODEST_RATE_PER_S)
            busy = (time.process_time() - before) / seconds
            print(f"app: {sent / seconds:,.0f} messages/s, {busy:.0%} of a core")
            await measure_load(app, host, pilot, seconds)
            await measure_screens(app, host, pilot)


async def measure_demo(seconds: float, started: float) -> None:
    settings = load_settings({"app.demo": True}, {}).with_keys()
    demo = Demo(settings)
    app = GrapevineApp(demo.host, settings, demo=demo)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        print(f"demo: ready after {(time.time() - started) * 1000:.0f} ms, imports included")
        if seconds:
            await demo.host.started.wait()
            await demo.host.node.ready(DEMO_PEERS, timeout=30.0)
            print(f"demo: {DEMO_PEERS} peers after {(time.time() - started) * 1000:.0f} ms")
            before = time.process_time()
            await asyncio.sleep(seconds)
            print(
                f"demo: {(time.process_time() - before) / seconds:.1%} of a core, {memory_mb():.0f} MB"
            )
        app.request_shutdown()
        while app.is_running:
            await pilot.pause(0.05)


def compare_starts() -> None:
    """Start the apps in turn, several times: the fastest start of each, which other work delays least."""
    fastest_ms: dict[str, float] = {}
    for _ in range(STARTS):
        for which in ("bare", "app", "demo"):
            command = [sys.executable, "-m", "tests.benchmarks.bench_app", which, "0"]
            done = subprocess.run(
                [*command, str(time.time())], check=True, capture_output=True, text=True
            )
            ready_ms = float(done.stdout.split("ready after ")[1].split()[0])
            fastest_ms[which] = min(ready_ms, fastest_ms.get(which, ready_ms))
    for which in ("app", "demo"):
        ratio = fastest_ms[which] / fastest_ms["bare"]
        print(
            f"{which}: ready after {fastest_ms[which]:.0f} ms at best, "
            f"{ratio:.2f} times the {fastest_ms['bare']:.0f} ms of bare"
        )


def measure_headless() -> None:
    """Start a headless node several times: the fastest start, and its memory."""
    times, peak_mb = [], 0.0
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as directory:
            environ = os.environ | {"HOME": directory, "XDG_CONFIG_HOME": directory}
            environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
            command = [sys.executable, "-m", "grapevine_tui", "--headless", "--on-eof", "exit"]
            started = time.perf_counter()
            with subprocess.Popen(
                [*command, "--port", "0", "--state-dir", directory],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environ,
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdout.readline()
                times.append(time.perf_counter() - started)
                status = Path(f"/proc/{process.pid}/status")
                if status.exists():
                    line = next(x for x in status.read_text().splitlines() if "VmHWM" in x)
                    peak_mb = max(peak_mb, int(line.split()[1]) / 1024)
                process.stdin.close()
    print(f"headless: started after {min(times) * 1000:.0f} ms at best, {peak_mb:.0f} MB")


async def measure_load(
    app: GrapevineApp, host: FakeHost, pilot: Pilot[None], seconds: float
) -> None:
    probe = Probe()
    keys: list[float] = []
    await pilot.press("i")  # into the compose box
    before = time.process_time()
    async with probe.watching():
        feeding = asyncio.create_task(feed(host, seconds))
        while not feeding.done():
            await asyncio.sleep(0.25)
            keys.append(await press_and_see(pilot, app))
        sent = await feeding
    busy = (time.process_time() - before) / seconds
    late = sorted(probe.late)
    print(f"app: {sent / seconds:,.0f} messages/s for {seconds:g} s, {busy:.0%} of a core")
    print(
        f"app: longest stall {probe.longest_s * 1000:.1f} ms, "
        f"p99 {late[int(len(late) * 0.99)] * 1000:.1f} ms, "
        f"most computed at once {probe.computed_s * 1000:.1f} ms"
    )
    print(f"app: a typed key is painted after at most {max(keys) * 1000:.0f} ms, {len(keys)} tried")
    print(f"app: {memory_mb():.0f} MB at the end")


async def measure_screens(app: GrapevineApp, host: FakeHost, pilot: Pilot[None]) -> None:
    """Prints the longest stall while each screen opens, in a cluster of maximum size."""
    host.members = [a_member(number, f"node-{number}") for number in range(MEMBERS)]
    host.happen(TraceUpdated(a_trace(1, 60, 40, known=MEMBERS)))
    app.tick()
    await pilot.press("escape")
    for name, key in (
        ("members", "m"),
        ("help", "?"),
        ("trace", "t"),
        ("traffic", "T"),
        ("status", "S"),
    ):
        probe = Probe()
        async with probe.watching():
            app.simulate_key(key if key != "?" else "question_mark")
            await asyncio.sleep(1.0)
            app.simulate_key("escape")
            await asyncio.sleep(0.3)
        print(f"app: {name}: most computed at once {probe.computed_s * 1000:.1f} ms")


def main(arguments: list[str]) -> None:
    if arguments[:1] in (["bare"], ["app"]):
        asyncio.run(measure(arguments[0], float(arguments[1]), float(arguments[2])))
        return
    if arguments[:1] == ["demo"]:
        asyncio.run(measure_demo(float(arguments[1]), float(arguments[2])))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument(
        "seconds", type=float, nargs="?", default=10.0, help="of messages and of idleness [10]"
    )
    seconds = str(parser.parse_args(arguments).seconds)
    compare_starts()
    for which in ("bare", "app", "demo"):  # a process each, or one would warm up the other
        subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.bench_app", which, seconds, str(time.time())],
            check=True,
        )
    measure_headless()


if __name__ == "__main__":
    main(sys.argv[1:])
