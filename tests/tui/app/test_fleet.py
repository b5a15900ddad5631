"""The table of contexts and the app over one, with real nodes, one that hangs and one that goes away."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.pilot import Pilot

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import InvalidArgument
from grapevine_tui.app.fleet import ContextApp, Destination, FleetApp, run_fleet
from grapevine_tui.app.own_command_run import OwnCommandRun
from grapevine_tui.app.screens.confirm import ConfirmScreen
from grapevine_tui.app.screens.fleet import CompareScreen, FleetScreen
from grapevine_tui.app.screens.fleet_tables import FleetMembersScreen
from grapevine_tui.app.screens.members import MembersScreen
from grapevine_tui.cli.attach import OwnSettings
from grapevine_tui.config.own_commands import OwnCommand
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.control.server import ControlServer, control_server
from grapevine_tui.control.socket_file import SOCKET_NAME
from grapevine_tui.control.target import LocalTarget
from grapevine_tui.host import snapshot
from grapevine_tui.host.alerts import AlertChange, AlertStatus
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes
from grapevine_tui.remote import host as remote_host
from grapevine_tui.remote.contexts import Context
from grapevine_tui.remote.fleet import Fleet
from tests.tui import made_up_fleet
from tests.tui.fake_host import FakeSettings
from tests.tui.runs import WAIT_S
from tests.tui.stage import text_of

pytestmark = pytest.mark.asyncio
Step = Callable[[App[None], Pilot[None]], Awaitable[None]]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_host, "RECONNECT_INTERVAL_S", 0.05)
    monkeypatch.setattr(remote_host, "SILENT_TIMEOUT_S", 2.0)
    monkeypatch.setattr("grapevine_tui.remote.fleet.REFRESH_INTERVAL_S", 0.1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"app.state_dir": str(tmp_path / "none")}, {}, directory=tmp_path)


async def a_node(stack: AsyncExitStack, state_dir: Path, name: str, *peers: str) -> Host:
    key_file = state_dir.parent / "cluster.key"
    config = NodeConfig.local(
        keys=[ClusterKey.load_or_generate(key_file)], name=name, bootstrap_peers=list(peers)
    )
    host = Host(config, state_dir)
    await stack.enter_async_context(control_server(host, lambda: None))
    await host.start()
    stack.push_async_callback(host.leave, 0.1)
    return host


async def serve_once(stack: AsyncExitStack, state_dir: Path, node: Host) -> None:
    """A node that shows its state to whoever watches, and then hangs."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stack.callback(writer.close)
        request = json.loads(await reader.readline())
        reply = {"event": "reply", "request": request.get("request"), "ok": True}
        writer.write(json.dumps(reply | snapshot.full_state(node)).encode() + b"\n")

    state_dir.mkdir()  # noqa: ASYNC240
    server = await asyncio.start_unix_server(answer, str(state_dir / SOCKET_NAME))
    stack.callback(server.close)


@asynccontextmanager
async def a_fleet(*contexts: Context) -> AsyncIterator[Fleet]:
    fleet = Fleet(contexts)
    fleet.start()
    try:
        yield fleet
    finally:
        await fleet.leave()


def context(state_dir: Path, *, is_readonly: bool = False) -> Context:
    return Context(state_dir.name, LocalTarget(state_dir, is_readonly))


async def alpha_and_beta(stack: AsyncExitStack, directory: Path) -> Fleet:
    """The contexts of two nodes that do not know each other."""
    for name in ("alpha", "beta"):
        await a_node(stack, directory / name, name)
    return await stack.enter_async_context(
        a_fleet(context(directory / "alpha"), context(directory / "beta"))
    )


async def until(pilot: Pilot[None], is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():
            await pilot.pause(0.02)


async def play(fleet: Fleet, settings: Settings, *steps: Step) -> int:
    """Runs the apps one after the other, each with the next of `steps`, which must end it."""
    left = list(steps)

    async def run(app: App[None]) -> None:
        step = left.pop(0)
        async with app.run_test(size=(140, 20), notifications=True) as pilot:
            await step(app, pilot)
            await until(pilot, lambda: not app.is_running)

    code = await run_fleet(fleet, settings, OwnSettings(settings), run)
    assert not left
    return code


async def test_contexts_are_opened_switched_and_left_and_their_connections_stay(
    tmp_path: Path, settings: Settings
) -> None:
    async with AsyncExitStack() as stack:
        fleet = await alpha_and_beta(stack, tmp_path)

        async def table(app: App[None], pilot: Pilot[None]) -> None:
            assert isinstance(app, FleetApp)
            await until(pilot, lambda: text_of(app).count("● up") == 2)
            assert "Fleet 2 · 2 up" in text_of(app)
            await pilot.press("escape")  # leads nowhere
            await pilot.press("enter")

        async def alpha(app: App[None], pilot: Pilot[None]) -> None:
            assert isinstance(app, ContextApp)
            await until(pilot, lambda: "alpha" in text_of(app))
            assert "q Fleet" in text_of(app)
            await pilot.press("alt+9", "alt+2")

        async def beta(app: App[None], pilot: Pilot[None]) -> None:
            await until(pilot, lambda: "beta" in text_of(app))
            await pilot.press("m", "q", "q")

        async def table_again(app: App[None], pilot: Pilot[None]) -> None:
            await until(pilot, lambda: text_of(app).count("● up") == 2)
            await pilot.press("alt+1")

        async def alpha_again(app: App[None], pilot: Pilot[None]) -> None:
            assert isinstance(app, ContextApp)
            app.main.compose_box.draft.replace_text("half a sentence")
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
            assert "half a sentence" in text_of(app)
            await pilot.press("n", "escape", "y")

        async def last(app: App[None], pilot: Pilot[None]) -> None:
            await pilot.press("question_mark")
            await until(pilot, lambda: "alt+1" in text_of(app))
            await pilot.press("q", "q")

        code = await play(fleet, settings, table, alpha, beta, table_again, alpha_again, last)
        assert code == 0
        for node in fleet.nodes.values():
            assert node.host.is_connected
            assert not node.host._listeners  # of an app that has ended


async def test_a_context_that_hangs_and_one_that_goes_away_are_dimmed_with_their_age(
    tmp_path: Path, settings: Settings
) -> None:
    async with AsyncExitStack() as stack:
        host = await a_node(stack, tmp_path / "well", "well")
        await serve_once(stack, tmp_path / "hangs", host)
        leaving = ControlServer(host, tmp_path / "leaves", lambda: None)
        (tmp_path / "leaves").mkdir()
        leaving.bind()
        await leaving.start()
        fleet = await stack.enter_async_context(
            a_fleet(*(context(tmp_path / each) for each in ("well", "hangs", "leaves", "absent")))
        )

        def line_of(app: App[None], name: str) -> str:
            lines = text_of(app).splitlines()
            return next((line for line in lines if f" {name} " in line), "")

        async def table(app: App[None], pilot: Pilot[None]) -> None:
            await until(pilot, lambda: "● up" in line_of(app, "leaves"))
            await until(pilot, lambda: "◐ silent" in line_of(app, "hangs"))
            leaving.close()
            await until(pilot, lambda: "✕ lost" in line_of(app, "leaves"))
            clock = time.strftime("as of %H:", time.localtime())
            assert clock in line_of(app, "leaves")
            assert re.search(r"as of [\d:]{8}, \d+s ago: \w", line_of(app, "leaves"))
            assert clock in line_of(app, "hangs")
            assert " ago: the node does not answer" in line_of(app, "hangs")
            assert "no node" in line_of(app, "absent")
            assert "as of" not in line_of(app, "absent")  # nothing was ever known of it
            await until(pilot, lambda: "● up" in line_of(app, "well"))
            rows = {row.key: row for row in app.screen.query_one("#fleet").rows}  # type: ignore[attr-defined]
            for name in ("hangs", "leaves"):
                assert {each.tone for each in rows[name].cells[3:]} == {"dim"}
            assert [row.key for row in rows.values()][-1] == "well"
            await pilot.press("alt+4")
            await until(pilot, lambda: "absent has not answered yet" in text_of(app))
            leaving.bind()
            await leaving.start()
            await until(pilot, lambda: "● up" in line_of(app, "leaves"))
            await pilot.press("q")

        await play(fleet, settings, table)
        leaving.close()


async def test_the_members_as_two_contexts_see_them_are_compared_and_marked(
    tmp_path: Path, settings: Settings
) -> None:
    async with AsyncExitStack() as stack:
        alpha = await a_node(stack, tmp_path / "alpha", "alpha")
        await a_node(stack, tmp_path / "beta", "beta", str(alpha.node.address))
        await a_node(stack, tmp_path / "apart", "apart")
        names = ("alpha", "beta", "apart")
        fleet = await stack.enter_async_context(a_fleet(*(context(tmp_path / n) for n in names)))

        async def table(app: App[None], pilot: Pilot[None]) -> None:
            await until(
                pilot,
                lambda: sum(each.up == 2 for each in fleet.rows()) == 2 and "up" in text_of(app),
            )
            screen = app.screen
            assert isinstance(screen, FleetScreen)
            await until(pilot, lambda: len(screen.table.rows) == 3)
            await pilot.press("s")  # by name: the worst one may change on a busy machine
            order = [str(row.key) for row in screen.table.rows]
            assert order == ["alpha", "apart", "beta"]
            await pilot.press("equals_sign")
            await until(pilot, lambda: "comparing alpha with" in text_of(app))
            await pilot.press("down", "down", "equals_sign")
            await until(pilot, lambda: isinstance(app.screen, CompareScreen))
            await until(pilot, lambda: "Members of alpha and beta · no difference" in text_of(app))
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is screen)
            await pilot.press("g", "equals_sign", "down", "equals_sign")
            await until(pilot, lambda: "Members of alpha and apart · 3 differ" in text_of(app))
            assert text_of(app).count("≠") == 3
            assert text_of(app).count("? unknown") == 3
            await pilot.press("q", "q")

        await play(fleet, settings, table)


async def test_a_member_or_a_message_of_a_merged_table_is_selected_in_its_context(
    tmp_path: Path, settings: Settings
) -> None:
    async with AsyncExitStack() as stack:
        alpha = await a_node(stack, tmp_path / "alpha", "alpha")
        beta = await a_node(stack, tmp_path / "beta", "beta", str(alpha.node.address))
        gamma = await a_node(stack, tmp_path / "gamma", "gamma", str(alpha.node.address))
        fleet = await stack.enter_async_context(
            a_fleet(context(tmp_path / "alpha"), context(tmp_path / "beta"))
        )
        async with asyncio.timeout(WAIT_S):
            while len(beta.node.members()) < 2 or len(alpha.node.members()) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        for text in (b"one", b"two", b"three"):
            await alpha.broadcast(text)

        async def members(app: App[None], pilot: Pilot[None]) -> None:
            assert isinstance(app, FleetApp)
            await until(pilot, lambda: text_of(app).count("● up") == 2)
            await pilot.press("m")
            await until(pilot, lambda: "Members 4 of 2 contexts" in text_of(app))
            await pilot.press("slash", *"context:beta gamma", "enter")
            await until(pilot, lambda: "1 match" in text_of(app))
            await pilot.press("enter")

        async def beta_app(app: App[None], pilot: Pilot[None]) -> None:
            assert isinstance(app, ContextApp)
            await until(pilot, lambda: isinstance(app.screen, MembersScreen))
            screen = app.screen
            assert isinstance(screen, MembersScreen)
            await until(pilot, lambda: screen.table.cursor_key == gamma.node.peer_id)
            await pilot.press("q")
            await until(pilot, lambda: app.screen is app.main)
            await pilot.press("q")

        async def messages(app: App[None], pilot: Pilot[None]) -> None:
            await until(pilot, lambda: "1 match context:beta gamma" in text_of(app))  # as it was
            await pilot.press("2")
            await until(pilot, lambda: "Messages 6 of 2 contexts" in text_of(app))
            await pilot.press("slash", *"two context:alpha", "enter")
            await until(pilot, lambda: "1 match" in text_of(app))
            await pilot.press("enter")

        async def alpha_app(app: App[None], pilot: Pilot[None]) -> None:
            assert isinstance(app, ContextApp)
            log = app.main.log_view
            await until(pilot, lambda: not log.is_following)
            assert log.cursor_entry is not None
            assert log.cursor_entry.message.payload == b"two"
            assert app.focused is log
            await pilot.press("alt+0")

        async def contexts(app: App[None], pilot: Pilot[None]) -> None:
            await until(pilot, lambda: "Fleet 2" in text_of(app))
            await pilot.press("q")

        await play(fleet, settings, members, beta_app, messages, alpha_app, contexts)


async def test_a_typed_context_or_table_is_shown_and_a_wrong_name_is_answered_with_the_nearest(
    tmp_path: Path, settings: Settings
) -> None:
    async with AsyncExitStack() as stack:
        fleet = await alpha_and_beta(stack, tmp_path)

        async def table(app: App[None], pilot: Pilot[None]) -> None:
            await until(pilot, lambda: text_of(app).count("● up") == 2)
            await pilot.press("alt+1")

        async def alpha(app: App[None], pilot: Pilot[None]) -> None:
            assert isinstance(app, ContextApp)
            await until(pilot, lambda: "alpha" in text_of(app))
            await pilot.press("i", *"/ctx", "space", *"betta", "enter")
            await until(pilot, lambda: "did you mean beta?" in text_of(app))
            await pilot.press("ctrl+u", *"/ctx", "space", "b")
            assert app.main.compose_box.draft.completions == ("/ctx beta",)
            await pilot.press("ctrl+u", *"/ctx", "space", "2", "enter")

        async def beta(app: App[None], pilot: Pilot[None]) -> None:
            await until(pilot, lambda: "beta" in text_of(app))
            await pilot.press("m", "alt+1")  # from a screen in front as well

        async def alpha_again(app: App[None], pilot: Pilot[None]) -> None:
            await until(pilot, lambda: "alpha" in text_of(app))
            await pilot.press("i", *"/fleet", "space", *"members", "enter")

        async def members(app: App[None], pilot: Pilot[None]) -> None:
            await until(pilot, lambda: isinstance(app.screen, FleetMembersScreen))
            await pilot.press("alt+0")
            await until(pilot, lambda: isinstance(app.screen, FleetScreen))
            await pilot.press("q")

        await play(fleet, settings, table, alpha, beta, alpha_again, members)


async def test_a_signal_ends_the_table_and_its_terminal_is_restored(settings: Settings) -> None:
    app = FleetApp(made_up_fleet.a_fleet(time.time()), settings)
    async with app.run_test() as pilot:
        await pilot.pause()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(pilot, lambda: not app.is_running)
    assert (app.destination, app.exit_code) == (None, 0)


async def test_a_row_of_a_context_knows_its_context(settings: Settings) -> None:
    app = ContextApp(made_up_fleet.a_fleet(time.time()), FakeSettings(), Destination("eu"))
    assert app.context_fields == {"context": "eu"}
    command = OwnCommand("x", ("echo", "{context}"))
    assert OwnCommandRun(command, app.context_fields).argv == ["echo", "eu"]
    with pytest.raises(InvalidArgument, match="this row has no context"):
        OwnCommandRun(command, {})


async def test_over_one_context_alerts_of_all_are_shown_with_their_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []
    fleet = made_up_fleet.a_fleet(time.time())
    node = fleet.nodes["eu"]
    monkeypatch.setattr(node.host, "refresh", lambda: Changes.NONE)
    monkeypatch.setattr(node.host, "_connection", None)
    monkeypatch.setattr(ContextApp, "_has_terminal", True)
    monkeypatch.setattr(ContextApp, "_write_to_terminal", lambda _, text: written.append(text))
    app = ContextApp(fleet, FakeSettings(alert="notify"), Destination("eu"))
    async with app.run_test(size=(140, 40), notifications=True) as pilot:
        await until(pilot, lambda: "us: alert loss: node-10" in text_of(app))
        assert any(each.startswith("\x1b]9;us: alert loss") for each in written)
        node.model.on_alert(AlertChange("few", "peers < 3", is_firing=True, value="peers 1"))
        node.model.alerts = (
            AlertStatus("few", "peers < 3", "firing", value="peers 1", since_s=0.0),
        )
        app._pending_changes |= Changes.NOTICES
        await until(pilot, lambda: "alert few: peers 1" in text_of(app))
        await until(pilot, lambda: any(each.startswith("\x1b]9;eu: ") for each in written))
        await until(pilot, lambda: any("! eu few, us loss · " in each for each in written))
        assert sum(each.startswith("\x1b]9;") for each in written) == 2
        assert "throttling node-3" not in text_of(app)  # a notice from before this app


async def test_a_word_mutes_a_context_by_name_or_the_one_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet = made_up_fleet.a_fleet(time.time())
    monkeypatch.setattr(fleet.nodes["eu"].host, "refresh", lambda: Changes.NONE)
    monkeypatch.setattr(fleet.nodes["eu"].host, "_connection", None)
    app = ContextApp(fleet, FakeSettings(), Destination("eu"))

    async def submit(pilot: Pilot[None], line: str, shown: str) -> None:
        app.main.compose_box.draft.focus()
        app.main.compose_box.draft.replace_text(line)
        await pilot.press("enter")
        await until(pilot, lambda: shown in text_of(app))

    async with app.run_test(size=(140, 40), notifications=True) as pilot:
        await submit(pilot, "/mute_context us", "alerts of us are muted, in this app only")
        assert fleet.nodes["us"].is_muted
        await submit(pilot, "/mute_context us", "alerts of us are unmuted")
        await submit(pilot, "/mute_context", "alerts of eu are muted")
        await submit(pilot, "/mute_context uss", "did you mean us?")
        assert [name for name, node in fleet.nodes.items() if node.is_muted] == ["staging", "eu"]


async def test_alt_with_a_digit_is_that_key_in_every_terminal(settings: Settings) -> None:
    FleetApp(Fleet([]), settings)
    for sequence in ("\x1b1", "\x1b[49;3u"):
        (key,) = XTermParser().feed(sequence)
        assert key.key == "alt+1"  # type: ignore[attr-defined]
