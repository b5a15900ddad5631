"""Runs the lines typed in the app, one after another.

Invariants:

- Lines take effect in the order in which they were typed, even if one waits for backpressure. Only answers
  to a query are waited for beside the lines after it.
- A refusal is shown at the compose box, and the refused line returns to it.

The app enqueues lines and runs `run` in a worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, Protocol, assert_never

from grapevine_proto.errors import GrapevineError
from grapevine_proto.events import DialFailed, Event, PeerState, PeerStateChanged
from grapevine_proto.ids import MessageId
from grapevine_proto.tags import tag_texts
from grapevine_proto.topics import pattern_fault
from grapevine_tui.app.export import Exporter
from grapevine_tui.app.screens.main import MainScreen
from grapevine_tui.app.screens.past import EventsScreen, PastScreen
from grapevine_tui.app.screens.state import format_value
from grapevine_tui.control import commands
from grapevine_tui.control.answers import answer_summary
from grapevine_tui.control.commands import (
    ClientAction,
    Command,
    CommandError,
    NodeAction,
    ScreenAction,
    Show,
)
from grapevine_tui.control.network_text import rtt_text
from grapevine_tui.control.read_only import refuse_act
from grapevine_tui.control.slash_parser import parse_command, quote_name
from grapevine_tui.history.terms import with_times
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.model import QueryEntry, format_dial_failure, format_discovered
from grapevine_tui.host.protocol import HostView
from grapevine_tui.host.query import format_tags
from grapevine_tui.host.report_format import ReportFormat
from grapevine_tui.host.views import (
    NetworkView,
    ShowHolders,
    ShowMatrix,
    ShowRtt,
    ShowTopology,
)

BACKPRESSURE_NOTICE_S: Final = 0.3  # a broadcast that waits longer shows a notice
QUICK_ANSWER_S: Final = (
    0.2  # a query that is refused, or answered by a small cluster, ends within this time
)


def words_of(command: commands.PastRows) -> str:
    """The filter that asks for what `command` does."""
    return with_times(command.words, since=command.since, before=command.before, at=command.at)


def _format_counts(counts: Mapping[str, Any]) -> str:
    return f"{counts['messages']:,} messages and {counts['events']:,} events"


class AppActions(Protocol):
    """The actions of the app that commands use."""

    main: MainScreen
    exporter: Exporter

    def action_traces(self) -> None: ...

    def show_members(self, filter_text: str) -> None: ...

    def show_state(self, prefix: str) -> None: ...

    def show_network(self, view: ShowMatrix | ShowTopology | ShowHolders) -> None: ...

    def action_queries(self) -> None: ...

    def on_query_ended(self, entry: QueryEntry) -> None: ...

    def run_worker(self, work: Coroutine[Any, Any, None], *, exit_on_error: bool) -> object: ...

    def history_screen(self, words: str, around: int | None = None) -> PastScreen: ...

    def show_past(self, screen: PastScreen) -> None: ...

    async def set_highlight(self, name: str, words: str, *, saves: bool) -> None: ...

    async def remove_highlight(self, name: str, *, saves: bool) -> None: ...

    def confirm_prune(self, before: str) -> None: ...

    def action_alerts(self) -> None: ...

    async def set_muted(self, name: str, for_s: int | None = None, *, is_muted: bool) -> None: ...

    def action_status(self) -> None: ...

    def action_help(self) -> None: ...

    async def action_settings(self) -> None: ...

    async def run_screen_action(self, action: ScreenAction) -> None: ...

    async def deny(self, peer_ref: str, for_s: int | None = None) -> None: ...

    def follow(self, identity: str) -> None: ...

    def sort_table(self, column: str) -> None: ...

    def run_own_command(self, name: str) -> None: ...

    def show_context(self, name: str) -> None: ...

    def mute_context(self, name: str) -> None: ...

    def show_fleet(self, table: str) -> None: ...

    async def allow(self, peer_ref: str) -> None: ...

    async def forget(self, peer_ref: str) -> None: ...

    async def set_settings(self, changes: tuple[tuple[str, str], ...]) -> None: ...

    async def reload(self) -> None: ...

    async def action_quit(self) -> None: ...


class CommandRunner:
    """Runs lines on `app` and its host."""

    def __init__(self, app: AppActions, host: HostView) -> None:
        self._app = app
        self._host = host
        self._lines: asyncio.Queue[str] = asyncio.Queue()
        self.pending_dial = ""
        """The address dialed last, until the outcome is known."""

    def enqueue(self, line: str) -> None:
        """Run `line` after the lines before it."""
        self._lines.put_nowait(line)

    async def run(self) -> None:
        """Run lines as they arrive. Never returns."""
        while True:
            line = await self._lines.get()
            try:
                await self._execute(parse_command(line), line.strip())
            except GrapevineError as error:
                self._app.main.compose_box.show_feedback(str(error), is_error=True)
                self._app.main.compose_box.restore(line)

    async def _execute(self, command: Command, line: str) -> None:
        app = self._app
        # An attached app leaves without its node, and reads again what is its own.
        if self._host.is_readonly and command not in (
            NodeAction.LEAVE,
            NodeAction.RELOAD,
        ):
            refuse_act(command)
        match command:
            case commands.Broadcast() | commands.Publish() | commands.Trace() | commands.Send():
                await self._send_payload(command)
            case AskMembers() | AccessState() | commands.ChangeTags():
                await self._use_cluster(command, line)
            case commands.Dial() | commands.Deny() | commands.Allow() | commands.Forget():
                await self._act_on_peer(command)
            case NodeAction.START_ROUND:
                await app.main.action_round()
            case commands.MuteAlert() | commands.UnmuteAlert():
                await self._use_alerts(command)
            case commands.SetHighlight() | commands.RemoveHighlight():
                await self._use_highlights(command)
            case commands.SetSettings(changes):
                await app.set_settings(changes)
            case NodeAction.RELOAD:
                await app.reload()
            case NodeAction.LEAVE:
                await app.action_quit()
            case (
                commands.Filter()
                | commands.Find()
                | commands.Sort()
                | commands.Follow()
                | commands.GoTo()
                | commands.Run()
                | commands.ChooseLayout()
                | commands.ToggleBox()
                | commands.ShowTab()
                | commands.ShowContext()
                | commands.MuteContext()
                | commands.ShowFleet()
                | ScreenAction()
            ):
                await self._act_on_screen(command)
            case (
                commands.ShowEvents()
                | commands.SearchHistory()
                | commands.ExportHistory()
                | commands.ImportHistory()
                | commands.PruneHistory()
                | commands.MakeReport()
            ):
                await self._use_history(command)
            case _:
                await self._query(command)

    async def _act_on_peer(self, command: commands.PeerCommand) -> None:
        app = self._app
        match command:
            case commands.Dial(address):
                await self._dial(address)
            case commands.Deny(peer_ref, for_s):
                await app.deny(peer_ref, for_s)
            case commands.Allow(peer_ref):
                await app.allow(peer_ref)
            case commands.Forget(peer_ref):
                await app.forget(peer_ref)
            case _:
                assert_never(command)

    async def _use_alerts(self, command: commands.AlertCommand) -> None:
        match command:
            case commands.MuteAlert(name, for_s):
                await self._app.set_muted(name, for_s, is_muted=True)
            case commands.UnmuteAlert(name):
                await self._app.set_muted(name, is_muted=False)
            case _:
                assert_never(command)

    async def _use_highlights(self, command: commands.HighlightCommand) -> None:
        match command:
            case commands.SetHighlight(name, words, saves):
                await self._app.set_highlight(name, words, saves=saves)
            case commands.RemoveHighlight(name, saves):
                await self._app.remove_highlight(name, saves=saves)
            case _:
                assert_never(command)

    def _use_fleet(self, command: commands.FleetCommand) -> None:
        match command:
            case commands.ShowContext(name):
                self._app.show_context(name)
            case commands.MuteContext(name):
                self._app.mute_context(name)
            case commands.ShowFleet(table):
                self._app.show_fleet(table)
            case _:
                assert_never(command)

    async def _act_on_screen(self, command: commands.AppAct) -> None:
        app = self._app
        match command:
            case commands.Filter(text):
                app.main.filter_current_panel(text)
            case commands.Find(text):
                app.main.find(text)
            case commands.Sort(column):
                app.sort_table(column)
            case commands.Follow(peer_ref):
                app.follow(peer_ref)
            case commands.GoTo(time_text):
                if self._host.playback is None:
                    raise CommandError("this is no recording; /history shows the past of a node")
                self._host.playback.go_to_time(time_text)
            case commands.ChooseLayout(name):
                app.main.show_layout(name)
            case commands.ShowTab(name):
                app.main.show_tab(name)
            case commands.ToggleBox(name):
                app.main.toggle_box("log" if name == "messages" else name)
            case commands.Run(name):
                app.run_own_command(name)
            case commands.ShowContext() | commands.MuteContext() | commands.ShowFleet():
                self._use_fleet(command)
            case ScreenAction():
                await app.run_screen_action(command)
            case _:
                assert_never(command)

    async def _use_history(self, command: commands.HistoryCommand) -> None:
        app, show_feedback = self._app, self._app.main.compose_box.show_feedback
        try:
            match command:
                case commands.ShowEvents():
                    app.show_past(EventsScreen(words_of(command), command.around))
                case commands.SearchHistory():
                    app.show_past(app.history_screen(words_of(command), command.around))
                case commands.ExportHistory(file_name, words):
                    done = await self._host.export_history(file_name, words)
                    self._host.model.log_command(f"history_export {file_name}")
                    show_feedback(f"{_format_counts(done)} written to {file_name}")
                case commands.ImportHistory(file_name):
                    done = await self._host.import_history(file_name)
                    self._host.model.log_command(f"history_import {file_name}")
                    show_feedback(f"{_format_counts(done)} added")
                case commands.PruneHistory(before):
                    app.confirm_prune(before)
                case commands.MakeReport(since, is_html):
                    output = ReportFormat.HTML if is_html else ReportFormat.MARKDOWN
                    text = await self._host.report(since, output)
                    await app.exporter.save_report(text, output)
                case _:
                    assert_never(command)
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror or error}") from None

    async def _send_payload(
        self,
        command: commands.Broadcast | commands.Publish | commands.Trace | commands.Send,
    ) -> None:
        match command:
            case commands.Broadcast(payload):
                await self._spread(
                    partial(self._host.broadcast, payload), "broadcast", len(payload)
                )
            case commands.Publish(topic, payload, expires_s, retain):
                publish = partial(self._host.publish, topic, payload, expires_s, retain)
                await self._spread(publish, f"publish {topic}", len(payload))
            case commands.Trace(payload):
                await self._spread(partial(self._host.trace, payload), "trace", len(payload))
                self._app.action_traces()
            case commands.Send(peer_ref, payload):
                await self._send(peer_ref, payload)
            case _:
                assert_never(command)

    async def _query(self, query: commands.Query | NetworkView | ClientAction) -> None:
        """Show the answer to a query; changes nothing of the node."""
        app, main = self._app, self._app.main
        match query:
            case Show():
                await self._show(query)
            case commands.Subscribe(pattern):
                if fault := pattern_fault(pattern):
                    raise CommandError(f"pattern: {fault}")
                main.action_panel("log")
                main.filter_current_panel(f"topic:{pattern}")
            case commands.ShowMembers(tags):
                app.show_members(" ".join(f"tag:{quote_name(e)}" for e in tag_texts(tags or {})))
            case ShowRtt() | ShowMatrix() | ShowTopology() | ShowHolders():
                await self._view_network(query)
            case commands.ShowHelp(""):
                app.action_help()
            case commands.ShowHelp(name):
                spec = commands.find_command(name)
                text = commands.command_help(spec, is_attached=self._host.model.is_remote)
                main.compose_box.show_feedback(f"{spec.usage}: {text}")
            case ClientAction():
                raise CommandError("for programs on the control socket only")
            case _:
                assert_never(query)

    async def _show(self, shown: Show) -> None:
        app, main = self._app, self._app.main
        match shown:
            case Show.PEERS:
                main.action_panel("peers")
            case Show.ROUNDS:
                main.action_panel("rounds")
            case Show.STATUS | Show.STATS:
                app.action_status()
            case Show.TRACES:
                app.action_traces()
            case Show.DISCOVERED:
                main.action_panel("peers")
                main.compose_box.show_feedback(format_discovered(self._host.model.discovered))
            case Show.ALERTS:
                app.action_alerts()
            case Show.SETTINGS:
                await app.action_settings()
            case Show.SNAPSHOT:
                await app.exporter.save_snapshot(await self._host.snapshot())
            case _:
                assert_never(shown)

    async def _view_network(self, view: NetworkView) -> None:
        if isinstance(view, ShowRtt):
            self._app.main.compose_box.show_feedback(rtt_text(await self._host.network(view)))
        else:
            self._app.show_network(view)

    async def _use_cluster(
        self, command: AskMembers | AccessState | commands.ChangeTags, line: str
    ) -> None:
        match command:
            case AskMembers():
                await self._ask(command, line)
            case AccessState():
                await self._access_state(command)
            case commands.ChangeTags(action, words):
                await self._change_tags(action, words)
            case _:
                assert_never(command)

    async def _ask(self, ask: AskMembers, line: str) -> None:
        """Ask members and show the queries. Answers that take longer are gathered in a worker."""
        asking = asyncio.ensure_future(self._host.query(ask))
        await asyncio.wait({asking}, timeout=QUICK_ANSWER_S)
        if asking.done():
            asking.result()  # raises if it was refused: the line goes back to the compose box
        entry = self._host.model.add_query(line)
        self._app.action_queries()
        if asking.done():
            self._on_answers(entry, asking.result())
        else:
            self._app.run_worker(self._gather(entry, asking), exit_on_error=True)

    async def _gather(self, entry: QueryEntry, asking: asyncio.Future[dict[str, Any]]) -> None:
        try:
            self._on_answers(entry, await asking)
        except GrapevineError as error:
            entry.error = str(error)
        self._app.on_query_ended(entry)

    def _on_answers(self, entry: QueryEntry, reply: dict[str, Any]) -> None:
        entry.reply = reply
        self._host.model.log_command(f"{entry.line[1:]}: {answer_summary(reply)}")

    async def _access_state(self, command: AccessState) -> None:
        """Show the keys, or run an action on one of them."""
        if command.action in ("list", "watch"):
            self._app.show_state(command.key)
            return
        reply = await self._host.state(command)
        show_feedback = self._app.main.compose_box.show_feedback
        key = command.key
        match command.action:
            case "get":
                winner = reply["winner"]
                is_set = winner is not None and not winner["deleted"]
                show_feedback(
                    f"{key} = {format_value(winner)}" if is_set else f"{key} has no value"
                )
            case "set":
                self._host.model.log_command(f"state set {key}: {len(command.payload):,} bytes")
                show_feedback(f"{key} is set")
            case "del":
                self._host.model.log_command(f"state del {key}")
                show_feedback(f"{key} is deleted" if reply["deleted"] else f"{key} had no value")

    async def _change_tags(self, action: str, words: tuple[str, ...]) -> None:
        reply = await self._host.tags(action, words)
        if action != "list":
            self._host.model.log_command(f"tags {action} {' '.join(words)}")
        self._host.model.tags = reply["tags"]
        self._app.main.compose_box.show_feedback(
            f"tags: {format_tags(reply['tags'])}" if reply["tags"] else "this node has no tags"
        )

    async def _send(self, peer_ref: str, payload: bytes) -> None:
        message_id = await self._host.send(peer_ref, payload)
        self._host.model.log_command(f"send {peer_ref}: {len(payload):,} bytes")
        if message_id not in self._host.model.undelivered:
            self._app.main.compose_box.show_feedback(f"sent to {peer_ref}")

    async def _dial(self, address: str) -> None:
        show_feedback = self._app.main.compose_box.show_feedback
        connected_name = self.connected_peer_at(address)
        self._host.model.dial_noticed_at.clear()  # report a failure again: this dial is new
        self.pending_dial = "" if connected_name else address
        await self._host.dial(address)
        self._host.model.log_command(f"dial {address}")
        # A connected peer reports no outcome of a dial, so do not wait for one.
        if connected_name:
            show_feedback(f"already connected to {connected_name}")
        else:
            show_feedback(f"dialing {address}", is_lasting=True)

    def connected_peer_at(self, address: str) -> str:
        """The name of the peer connected at `address`; empty if there is none."""
        model = self._host.model
        for peer in model.peers.values():
            if str(peer.address) == address and peer.state is PeerState.CONNECTED:
                return model.name_of(peer.peer_id)
        return ""

    def on_event(self, event: Event) -> None:
        """Show the outcome of the pending dial, if `event` is it."""
        match event:
            case DialFailed() if str(event.address) == self.pending_dial:
                self._app.main.compose_box.show_feedback(format_dial_failure(event), is_error=True)
            case PeerStateChanged(peer) if (
                str(peer.address) == self.pending_dial and peer.state is PeerState.CONNECTED
            ):
                self._app.main.compose_box.show_feedback(
                    f"connected to {peer.name or peer.peer_id.short}"
                )
            case _:
                return
        self.pending_dial = ""

    async def _spread(
        self,
        send: Callable[[], Awaitable[tuple[MessageId, int]]],
        verb: str,
        size_bytes: int,
    ) -> None:
        show_feedback = self._app.main.compose_box.show_feedback
        backpressure_notice = asyncio.get_running_loop().call_later(
            BACKPRESSURE_NOTICE_S,
            partial(show_feedback, "all peer queues are full, waiting", is_lasting=True),
        )
        started_at = time.monotonic()
        try:
            _, peers = await send()
            self._host.model.log_command(f"{verb}: {size_bytes:,} bytes to {peers:,} peers")
        finally:
            backpressure_notice.cancel()
        if not peers:
            show_feedback("no peers connected; queued until one joins")
        elif time.monotonic() - started_at > BACKPRESSURE_NOTICE_S:
            show_feedback("")
