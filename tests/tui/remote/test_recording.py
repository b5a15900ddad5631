"""A recording is played back in the same screens, at any of its times, and nothing can be sent meanwhile."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from grapevine_proto.errors import InvalidArgument
from grapevine_proto.events import Stats
from grapevine_tui.app.replay import ReplayApp
from grapevine_tui.app.screens.help import sections
from grapevine_tui.cli.main import run
from grapevine_tui.config import keymap
from grapevine_tui.control.commands import NodeAct
from grapevine_tui.host.model import Model
from grapevine_tui.remote.recording import InvalidRecording, Recording, RecordingWriter
from grapevine_tui.remote.replay import RecordingOnly, ReplayClock, ReplayHost
from tests.tui.fake_host import FakeSettings
from tests.tui.hostile import HOSTILE
from tests.tui.runs import Bench
from tests.tui.stage import text_of
from tests.tui.values import a_member, a_message, a_peer, an_id

START = 1_790_000_000.0
LENGTH_S = 120


def a_state(second: int, **changes: Any) -> dict[str, Any]:
    """The full state of a node that has one peer more every 30 s."""
    numbers = range(2, 3 + second // 30)
    return {
        "status": {
            "peer_id": str(an_id(1)), "address": "10.0.0.1:8000", "epoch": 1, "name": "us", "zone": "",
            "cluster": "default", "strategy": "auto", "uptime_s": 10.0 + second,
        },
        "max_peers": 50, "max_message_size": 1_000_000,
        "snapshot": a_poll(second),
        "members": [a_member(number, f"db-{number}").to_dict() for number in numbers],
        "rounds": [], "traces": [], **changes,
    }  # fmt: skip


def a_poll(second: int) -> dict[str, Any]:
    numbers = range(2, 3 + second // 30)
    peers = [a_peer(number, f"db-{number}").to_dict(now=second + 100.0) for number in numbers]
    return {
        "now_s": 100.0 + second, "lag_ms": 1.0, "members": len(numbers), "denied": [], "tags": {},
        "peers": peers, "stats": Stats(delivered=second).to_dict(now=second + 100.0),
    }  # fmt: skip


def a_text(second: int, text: str = "") -> dict[str, Any]:
    message = a_message(2, second + 1, (text or f"line {second}.").encode())
    return {"event": "message", **message.to_dict()}


def recorded(path: Path, text: str = "") -> Path:
    """Two minutes with a message a second and a full state every 30 s."""
    with RecordingWriter(path) as writer:
        for second in range(LENGTH_S):
            kind, fields = ("poll", a_poll(second)) if second % 30 else ("state", a_state(second))
            writer.write(START + second, kind, fields)
            writer.write(START + second + 0.5, "event", a_text(second, text))
    return path


def a_host(path: Path, speed: float = 1.0, now: list[float] | None = None) -> ReplayHost:
    clock, times = ReplayClock(), now or [0.0]
    model = Model(wall_clock=clock)
    return ReplayHost(Recording(path), model, clock, speed=speed, monotonic=lambda: times[0])


def texts(host: ReplayHost) -> list[str]:
    return [
        each.message.payload.decode() for each in reversed([*host.model.messages.newest_first()])
    ]


@pytest.mark.asyncio
async def test_time_passes_at_the_speed_asked_for_until_the_end(tmp_path: Path) -> None:
    now = [50.0]
    host = a_host(recorded(tmp_path / "r.gz"), speed=10.0, now=now)
    await host.start()
    assert texts(host) == []
    assert host.position == START
    now[0] += 1.0
    host.refresh()
    assert host.position == START + 10
    assert texts(host) == [f"line {second}." for second in range(10)]
    entry = next(host.model.messages.newest_first())
    assert entry.at_unix == START + 9.5
    assert "x10" in host.model.replay
    host.toggle()
    now[0] += 5.0
    host.refresh()
    assert host.position == START + 10
    assert "paused" in host.model.replay
    host.toggle()
    now[0] += 1_000.0
    host.refresh()
    assert len(texts(host)) == LENGTH_S
    assert "the end" in host.model.replay
    host.toggle()  # begins again
    assert host.is_playing
    assert texts(host) == []
    await host.leave(0.0)


@pytest.mark.asyncio
async def test_any_time_shows_what_was_known_then_and_nothing_later(tmp_path: Path) -> None:
    host = a_host(recorded(tmp_path / "r.gz"))
    await host.start()
    forth = []
    for second in (95, 10, 40, 119, 0, 64):
        host.go_to(START + second + 0.9)
        shown = (texts(host), sorted(host.model.peers), sorted(host.model.members))
        assert shown[0] == [f"line {each}." for each in range(second + 1)]
        assert len(shown[1]) == len(shown[2]) == 1 + second // 30
        assert host.model.stats.delivered == second
        forth.append(shown)
    host.go_to_time("-30")
    assert host.position == pytest.approx(START + 34.9)
    host.go_to_time("+10")
    assert texts(host)[-1] == "line 44."
    host.go_to_time("1m")  # before the end
    assert host.position == pytest.approx(START + 59.5)
    host.step(-10_000)
    assert host.position == START
    host.step(10_000)
    assert host.position == START + LENGTH_S - 0.5
    with pytest.raises(InvalidArgument, match="expected a time"):
        host.go_to_time("soon")
    await host.leave(0.0)


@pytest.mark.asyncio
async def test_nothing_can_be_sent_or_changed(tmp_path: Path) -> None:
    host = a_host(recorded(tmp_path / "r.gz"))
    await host.start()
    acts = {
        "broadcast": (b"x",), "publish": ("a", b"x"), "trace": (b"x",), "send": ("db-2", b"x"),
        "dial": ("h:1",), "deny": ("db-2",), "allow": ("db-2",), "forget": (an_id(2),), "start_round": (),
        "reload": (), "edit": (), "tags": ("set", ["a=b"]), "search_history": (), "search_events": (),
        "prune_history": (), "import_history": ("f",), "export_history": ("f",), "snapshot": (),
    }  # fmt: skip
    for name, arguments in acts.items():
        with pytest.raises(RecordingOnly):
            await getattr(host, name)(*arguments)
    with pytest.raises(RecordingOnly):
        host.reconfigure(host.config)
    assert len(acts) > len(NodeAct.__args__) - 5
    await host.leave(0.0)


def test_a_file_that_is_cut_is_read_up_to_there(tmp_path: Path) -> None:
    whole = recorded(tmp_path / "r.gz").read_bytes()
    assert (tmp_path / "r.gz").stat().st_mode & 0o777 == 0o600
    cut = tmp_path / "cut.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    recording = Recording(cut)
    assert recording.problem
    assert START < recording.end < START + LENGTH_S
    recording.close()
    damaged = bytearray(whole)
    damaged[len(whole) * 3 // 4] ^= 0xFF
    cut.write_bytes(damaged)
    recording = Recording(cut)
    assert recording.problem
    recording.close()


HEADER = b'{"recording":"grapevine recording","version":1}\n'


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)  # the same in each worker that collects the tests


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        gzipped(b""),
        gzipped(b"[1]\n"),
        gzipped(b'{"event":"x"}\n'),
        gzipped(b'{"recording":"grapevine recording","version":99}\n'),
        gzipped(HEADER + b'{"at":1,"kind":"event","fields":{}}\n'),
        gzipped(HEADER + b"{}"),
    ],
)
def test_another_file_is_refused_with_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(InvalidRecording) as error:
        Recording(path)
    assert "\n" not in str(error.value)
    with pytest.raises(InvalidRecording, match="No such file"):
        Recording(tmp_path / "nowhere")


@pytest.mark.asyncio
async def test_objects_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r.gz"
    with RecordingWriter(path) as writer:
        writer.write(START, "state", a_state(0))
        for fields in ({"event": "message"}, {"event": "of the future"}, {}):
            writer.write(START + 1, "event", fields)
        writer.write(START + 2, "of the future", {})
        writer.write(START + 3, "event", a_text(3))
    host = a_host(path)
    await host.start()
    host.go_to(START + 3)
    assert texts(host) == ["line 3."]
    await host.leave(0.0)


@asynccontextmanager
async def an_app(path: Path) -> AsyncIterator[tuple[ReplayApp, Pilot[None], ReplayHost]]:
    host = a_host(path)
    await host.start()
    app = ReplayApp(host, FakeSettings(), note="the end is missing")
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        await pilot.pause()
        yield app, pilot, host


async def shown(app: ReplayApp, pilot: Pilot[None]) -> str:
    for _ in range(10):
        app.tick()
    await pilot.pause()
    return text_of(app)


@pytest.mark.asyncio
async def test_keys_go_through_time_and_the_first_line_says_so(tmp_path: Path) -> None:
    async with an_app(recorded(tmp_path / "r.gz")) as (app, pilot, host):
        await pilot.press("right_curly_bracket", "space")
        text = await shown(app, pilot)
        assert "REPLAY" in text.split("\n")[0]
        assert "paused" in text.split("\n")[0]
        assert "recorded:" in text
        assert "nothing is sent from here" in text
        assert "everyone" not in text
        assert "the end is missing" in text
        assert "line 59." in text
        assert "line 60." not in text
        await pilot.press("left_square_bracket")
        assert "line 50." not in await shown(app, pilot)
        await pilot.press("right_square_bracket", "left_curly_bracket")
        assert "line 0." not in await shown(app, pilot)
        await pilot.press("at", *"+90", "enter")
        text = await shown(app, pilot)
        assert "line 89." in text
        assert "db-5" in text
        await pilot.press(*"hello", "enter")
        assert "nothing can be sent" in await shown(app, pilot)
        await pilot.press("escape", "question_mark")
        assert "Recordings" in [name for name, _ in sections({}, is_replay=True)]
        await pilot.press("escape", "q")
        assert not host.model.disconnect_reason
    assert {each.name for each in keymap.REPLAY_KEYS} <= set(keymap.ACTION_NAMES)


@pytest.mark.asyncio
@pytest.mark.parametrize("text", HOSTILE[:12])
async def test_hostile_text_of_a_recording_is_shown_printable(tmp_path: Path, text: str) -> None:
    async with an_app(recorded(tmp_path / "r.gz", text)) as (app, pilot, _):
        await pilot.press("right_square_bracket")
        assert all(each.isprintable() or each == "\n" for each in await shown(app, pilot))


def test_a_node_is_recorded_and_what_was_recorded_is_shown(bench: Bench) -> None:
    run_, _ = bench.started("--name", "one", "--state-dir", "kept")
    run_.ask(cmd="broadcast", text="from before")
    done = bench.command("ctl", "--state-dir", "kept", "record", "r.jsonl.gz", "--for", "1.5")
    assert done.returncode == 0, done.stderr
    assert "objects in r.jsonl.gz" in done.stdout
    again = bench.command("ctl", "--state-dir", "kept", "record", "r.jsonl.gz")
    assert (again.returncode, "File exists" in again.stderr) == (1, True)
    path = bench.directory / "r.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    kinds = [json.loads(line).get("kind") for line in lines]
    assert kinds[1] == "state"
    assert "poll" in kinds

    async def replay() -> None:
        host = a_host(path)
        await host.start()
        host.step(60)
        assert texts(host) == ["from before"]
        assert host.config.name == "one"
        await host.leave(0.0)

    asyncio.run(replay())


def test_replay_without_a_terminal_or_a_recording_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["replay", str(tmp_path / "nowhere")]) != 0
    assert run(["replay", str(tmp_path / "nowhere"), "--speed", "0"]) == 2
    assert capsys.readouterr().err.count("Traceback") == 0
