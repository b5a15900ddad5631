"""Actions on a node or a message from a table or a detail screen: open, send, dial, copy, export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from grapevine_proto.errors import UnknownPeer
from grapevine_proto.events import AntiEntropyRound, MemberStatus, PathKind, PeerState
from grapevine_proto.ids import PeerId
from grapevine_tui.app.screens.facts import addressable_name
from grapevine_tui.app.screens.members import ROWS_PER_PASS, MemberRowCache
from grapevine_tui.app.screens.message import (
    available_formats,
    format_as_hex,
    format_as_json,
    format_as_text,
)
from grapevine_tui.app.screens.traffic import resample
from grapevine_tui.app.widgets.peer_table import PeerGrid
from grapevine_tui.host.timeseries import (
    FINE_PER_COARSE,
    MAX_COARSE_SAMPLES,
    MAX_FINE_SAMPLES,
    MAX_RTT_SAMPLES,
)
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.stage import Stage, staged
from tests.tui.values import a_member, a_peer, a_round, an_id, received

pytestmark = pytest.mark.asyncio


def peopled() -> FakeHost:
    host = FakeHost()
    host.peers = [a_peer(1, "bob"), a_peer(2, "carol", state=PeerState.STALE)]
    host.members = [
        a_member(1, "bob"),
        a_member(2, "carol"),
        replace(a_member(3, "ivan\x1b[2J[/nope]"), status=MemberStatus.DOWN, zone="us-east"),
        replace(a_member(4, "judy"), status=MemberStatus.SUSPECT, address=None),
        replace(a_member(5, "kim"), status=MemberStatus.LEFT),
    ]
    return host


def found(directory: Path, pattern: str) -> list[Path]:
    return list(directory.glob(pattern))


def clipboard(stage: Stage) -> str:
    return stage.app.clipboard


async def test_m_shows_all_members_sortable_filterable_and_which_are_connected() -> None:
    async with staged(peopled()) as stage:
        await stage.press("escape", "m")
        for expected in (
            "Members 5 · 2 up · 1 suspect · 1 down · 1 left", "● up", "▲ suspect", "✕ down", "○ left",
            "◐ silent", "ivan␛[2J[/nope]", "10.0.0.7:8001",
        ):  # fmt: skip
            assert expected in stage.text
        await stage.press("slash", *"status:down", "enter")
        assert "1 match status:down" in stage.text
        assert "judy" not in stage.text
        await stage.press("escape", "s", "r")
        lines = [line for line in stage.text.split("\n") if "10.0.0.7" in line]
        assert "kim" in lines[0]
        await stage.press("escape")
        assert "Peers 1 up" in stage.text


async def test_thousands_of_members_come_in_handfuls_until_all_are_there() -> None:
    host = peopled()
    host.members = [a_member(each, f"node-{each}") for each in range(2 * ROWS_PER_PASS + 7)]
    host.refresh()
    rows = MemberRowCache(host.model)
    assert [len(rows.build()) for _ in range(4)] == [
        ROWS_PER_PASS,
        2 * ROWS_PER_PASS,
        *[len(host.members)] * 2,
    ]
    assert not rows.is_behind
    async with staged(host) as stage:
        await stage.press("escape", "m")
        await stage.pilot.pause(0.2)
        assert len(stage.app.screen.query_one(PeerGrid).rows) == len(host.members)


async def test_a_member_that_is_not_linked_has_details_too() -> None:
    async with staged(peopled()) as stage:
        await stage.press("escape", "m", "G", "k", "enter")
        assert stage.has_sheet
        assert "none: known from other members" in stage.text
        await stage.press("escape", "escape")
        assert "Peers 1 up" in stage.text


async def test_a_member_reached_through_a_relay_is_shown_so() -> None:
    host = peopled()
    host.members = [replace(each, path=PathKind.RELAYED) for each in host.members]
    async with staged(host) as stage:
        await stage.press("escape", "m", "G", "k", "enter")
        assert "relayed by a common peer" in stage.text


async def test_a_key_begins_a_line_to_a_node_and_keeps_the_draft() -> None:
    host = peopled()
    host.peers.append(a_peer(6, "two words"))
    async with staged(host) as stage:
        await stage.press("i", "d", "r", "escape", "1", "greater_than_sign")
        draft = stage.main.compose_box.draft
        assert draft.text == "/send bob "
        assert stage.focused == "draft"
        await stage.press(*"hi", "enter")
        assert host.sends == [("bob", b"hi")]
        await stage.press("up", "up")
        assert draft.text == "dr"
        await stage.press("escape", "1", "G", "k", "greater_than_sign")
        assert draft.text in ('/send "two words" ', "/send carol ")
        await stage.press("escape", "m", "g", "j", "j", "greater_than_sign")
        assert draft.text.startswith("/send judy")


async def test_a_name_that_cannot_be_typed_is_called_by_its_id() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "b\x1b[0m"), a_peer(2, "twin"), a_peer(3, "twin")]
    async with staged(host):
        for peer in host.peers:
            assert addressable_name(host.model, peer.peer_id) == str(peer.peer_id)


async def test_f_forgets_a_dead_peer_and_reports_it() -> None:
    async with staged(peopled()) as stage:
        await stage.press("escape", "1", "F")
        assert [peer.name for peer in stage.host.peers] == ["bob", "carol"]
        for expected in (
            "Forget this node?",
            "bob",
            "another node reports it; this cannot be undone",
        ):
            assert expected in stage.text
        await stage.press("enter")
        assert [peer.name for peer in stage.host.peers] == ["carol"]
        assert "done: forget bob" in stage.text
        await stage.press("enter", "F", "y", "escape")
        assert stage.host.peers == []
        await stage.press("m", "g", "F", "y")
        assert {member.name[:4] for member in stage.host.members} == {"ivan", "kim"}


async def test_a_connected_peer_is_not_forgotten_and_the_reason_is_shown() -> None:
    class Linked(FakeHost):
        async def forget(self, peer_id: PeerId) -> None:
            raise UnknownPeer("it is connected; only a peer that is down can be removed")

    host = Linked()
    host.peers = [a_peer(1, "bob[/nope]")]
    async with staged(host) as stage:
        await stage.press("escape", "1", "F", "y")
        assert "bob[/nope]: it is connected; only" in stage.text


async def test_d_dials_again_and_y_copies_address_and_id() -> None:
    async with staged(peopled()) as stage:
        await stage.press("escape", "1", "d")
        assert stage.host.dials == ["10.0.0.7:8001"]
        await stage.press("y")
        assert clipboard(stage) == "10.0.0.7:8001"
        assert "copied 10.0.0.7:8001" in stage.text
        await stage.press("Y")
        assert clipboard(stage) == str(an_id(1))
        await stage.press("enter", "y")
        assert clipboard(stage) == "10.0.0.7:8001"
        await stage.press("escape", "3", "Y")
        assert clipboard(stage) == str(an_id(1))


async def test_y_copies_a_message_and_its_id_in_log_and_details() -> None:
    async with staged(peopled()) as stage:
        stage.host.happen(received(1, 1, "grüße\x1b[2J".encode()), received(1, 2, b"\xff\x00"))
        await stage.paint()
        await stage.press("escape", "2", "y")
        assert clipboard(stage) == "ff00"
        await stage.press("k", "k", "y")
        assert clipboard(stage) == "grüße␛[2J"  # printable: it may be pasted into a shell
        assert "copied grüße␛[2J" in stage.text
        await stage.press("Y")
        assert clipboard(stage) == f"{an_id(1)}:1700000000:1"
        await stage.press("enter", "y")
        assert clipboard(stage) == "grüße␛[2J"


async def test_what_is_too_large_for_a_clipboard_is_rejected_with_a_reason() -> None:
    async with staged(peopled()) as stage:
        stage.host.happen(received(1, 1, b"x" * 200_000))
        await stage.paint()
        await stage.press("escape", "2", "y")
        assert "too large to copy" in stage.text
        assert clipboard(stage) == ""


async def test_e_exports_the_shown_messages_and_reports_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with staged(peopled()) as stage:
        await stage.press("escape", "2", "e")
        assert "nothing to export" in stage.text
        stage.host.happen(
            *(received(1 + each % 2, each, f"n{each}".encode()) for each in range(10))
        )
        await stage.press("slash", *"from:bob", "enter", "e")
        await stage.pilot.pause(0.1)
        (path,) = found(tmp_path, "messages-*.jsonl")
        reported = [json.loads(line) for line in path.read_text().splitlines()]
        assert [each["text"] for each in reported] == ["n0", "n2", "n4", "n6", "n8"]
        assert {each["event"] for each in reported} == {"message"}
        assert {each["from_name"] for each in reported} == {"bob"}
        assert path.stat().st_mode & 0o777 == 0o600
        assert "5 messages exported to" in stage.text


async def test_export_falls_back_from_the_working_directory_to_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_peer = tmp_path / "gone"
    monkeypatch.setattr(Path, "cwd", lambda: lost_peer)
    async with staged(peopled(), settings=FakeSettings(state_dir=tmp_path)) as stage:
        await stage.press("escape", "p")
        (path,) = found(tmp_path, "grapevine-*.svg")
        assert path.read_text().startswith("<svg")
        assert "screenshot saved to" in stage.text
    async with staged(peopled()) as stage:
        await stage.press("escape", "p")
        assert "cannot write: No such file or directory" in stage.text


async def test_a_snapshot_and_a_report_are_written_to_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with staged(peopled()) as stage:
        await stage.submit("/snapshot")
        await stage.pilot.pause(0.1)
        (path,) = found(tmp_path, "snapshot-*.json")
        assert len(json.loads(path.read_text())["peers"]) == len(stage.host.peers)
        assert path.stat().st_mode & 0o777 == 0o600
        assert "snapshot saved to" in stage.text
        await stage.submit("/report")
        await stage.submit("/report --html --since 2h")
        await stage.pilot.pause(0.1)
        (path,) = found(tmp_path, "report-*.md")
        assert path.read_text() == "report in markdown since 1h\n"
        (path,) = found(tmp_path, "report-*.html")
        assert path.read_text() == "report in html since 2h\n"
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "gone")
    async with staged(peopled()) as stage:
        await stage.submit("/report")
        await stage.pilot.pause(0.1)
        assert "cannot write: No such file or directory" in stage.text


async def test_a_payload_is_read_as_json_text_or_hex() -> None:
    assert available_formats(b'{"a": [1]}') == ["json", "text", "hex"]
    assert available_formats(b"{not json") == ["text", "hex"]
    assert available_formats(b"\xff") == ["hex"]
    assert available_formats(b"") == ["text", "hex"]
    assert format_as_json(b'{"a": "\\u001b[2J"}') == ["{", '  "a": "\\u001b[2J"', "}"]
    assert format_as_text("ü".encode() * 40_000) is not None
    assert format_as_hex(b"ab\x1b" * 6)[1] == f"000010  {'62 1b':<47}  b·"


async def test_v_shows_the_next_form_of_a_message() -> None:
    async with staged(peopled()) as stage:
        stage.host.happen(received(1, 1, b'{"a": "\\u001b[2J", "b": [1, 2]}'))
        await stage.paint()
        await stage.press("escape", "2", "enter")
        assert "payload as json" in stage.text
        assert '"b": [' in stage.text
        assert "by its author's signature" in stage.text
        await stage.press("v")
        assert '{"a": "\\u001b[2J", "b": [1, 2]}' in stage.text
        await stage.press("v")
        assert "7b 22 61 22" in stage.text
        await stage.press("v")
        assert "payload as json" in stage.text


async def test_a_peer_shows_its_messages_its_rounds_and_its_round_trips() -> None:
    host = peopled()
    host.happen(received(1, 1, b"hello\x1b"), received(2, 1, b"not his"))
    host.happen(AntiEntropyRound(a_round(7, 1)))
    for second in range(5):
        host.node.time = 100.0 + second
        host.peers[0] = a_peer(
            1, "bob", rtt_s=0.001 * (second + 1), send_rate=6e6, lost=3, datagram_bytes=1452
        )
        host.refresh()
    async with staged(host) as stage:
        await stage.press("escape", "1", "g", "enter")
        for expected in (
            "hello␛",
            "round 7",
            "in sync",
            "2.0ms to 5.0ms, median ",
            "● up",
            "0.98  healthy",
            "messages     1, 0.0/s",
            "> Message",
            "3 datagrams, 3.0%",
            "6.0 MB/s, MTU 1,452 bytes",
        ):
            assert expected in stage.text
        assert "not his" not in stage.text


async def test_histories_are_bounded() -> None:
    host = peopled()
    for second in range(FINE_PER_COARSE * MAX_COARSE_SAMPLES // 8):
        host.node.time = float(second)
        host.refresh()
    traffic = host.model.traffic
    assert len(traffic.in_per_s) == MAX_FINE_SAMPLES
    assert len(traffic.datagrams_in.coarse) <= MAX_COARSE_SAMPLES
    assert len(host.model.rtts[an_id(1)]) == MAX_RTT_SAMPLES
    assert an_id(2) not in host.model.rtts  # stale: no round trip is measured
    host.peers = []
    host.node.time += 1
    host.refresh()
    assert host.model.rtts == {}


async def test_samples_are_drawn_so_that_bursts_stand() -> None:
    assert resample([1, 9, 1, 1], 4, 2) == [9, 1]
    assert resample([5], 4, 4) == [0, 0, 0, 5]
    assert resample([1, 2], 2, 4) == [1, 1, 2, 2]
    assert resample([], 4, 0) == []


@pytest.mark.parametrize("size", [(120, 36), (80, 24), (40, 12), (10, 4), (1, 1)])
async def test_traffic_is_drawn_over_three_spans_at_every_size(size: tuple[int, int]) -> None:
    host = peopled()
    for second in range(40):
        host.stats = host.stats._replace(datagrams_in=second * 100, gaps_abandoned=second)
        host.node.time = 100.0 + second
        host.refresh()
    async with staged(host, size=size) as stage:
        await stage.press("escape", "T")
        for expected in ("1 min ago", "15 min ago", "3 h ago", "3 h ago"):
            if size[0] >= 80:
                assert expected in stage.text
                assert "datagrams in" in stage.text
                assert "peak 100/s" in stage.text
            await stage.press("left")
        await stage.press("escape")
        assert stage.app.screen is stage.main


async def test_keys_of_the_config_file_work_and_stand_in_the_help_and_the_key_line() -> None:
    settings = FakeSettings(keys={"pause": "o", "members": "f2,M", "quit": "ctrl+x"})
    async with staged(peopled(), settings=settings) as stage:
        await stage.press("escape", "o")
        assert "PAUSED" in stage.text
        assert "o Resume" in stage.text.split("\n")[-1]
        await stage.press("space", "o")
        assert "PAUSED" not in stage.text
        assert "o Pause" in stage.text.split("\n")[-1]
        await stage.press("M")
        assert "Members 5" in stage.text
        await stage.press("escape", "question_mark")
        assert "f2 M" in stage.text
        help_texts = [each.help for each in stage.app.get_system_commands(stage.app.screen)]
        assert any(each.endswith("· key f2 M") for each in help_texts)
        await stage.press("escape", "q")
        assert stage.host.left == 0
        await stage.press("ctrl+x", "y")
    assert stage.host.left == 1
