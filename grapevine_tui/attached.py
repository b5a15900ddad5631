"""A node in another process, by its control socket: to the app the same as one in its own.

What must stay true:

- What is shown is what the node told: tables it is asked for twice a second, events as they happen.
- A lost socket is told at once, and looked for until it is there again; nothing that was shown goes.
- Leaving means to hang up: the node runs on.

Driven by `attach` and the app: `start`, orders, `refresh` now and then, `leave`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.events import Event, MemberChanged, MemberInfo, MessageReceived, NodeStarted
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_proto.trust import UntrustedFile
from grapevine_tui.control import SOCKET_NAME, check_answerer, reachable
from grapevine_tui.ctl import NoAnswer, NotDone
from grapevine_tui.editing import RemoteEditing, Saved
from grapevine_tui.jsonlines import Object
from grapevine_tui.layers import Value
from grapevine_tui.mirror import (
    MALFORMED,
    event_of,
    member_of,
    message_of,
    peer_of,
    round_of,
    stats_of,
    trace_of,
)
from grapevine_tui.model import Changes, Completed, Followed, Model
from grapevine_tui.settings import Settings, of_values
from grapevine_tui.streams import LINE_BYTES

ANSWER_S: Final = 30.0  # a broadcast waits for room; all else answers at once
RETRY_S: Final = 1.0  # between looks whether the node is there again
REPLY_BYTES: Final = 64 * 2**20  # of one line; all members of a large cluster are a few megabytes
MEMBERS_S: Final = 30.0  # between askings for all members, whose changes are told as they happen
ON_A_LINE: Final = (
    LINE_BYTES // 2
)  # bytes of a payload that fit a line in base64; more goes by a file
BROKEN: Final = (*MALFORMED, RecursionError)

Listener = Callable[[Event, Changes], None]


class AttachedHost:
    """The node that runs on `state_dir`. All that acts raises NoAnswer, or NotDone with the node's words."""

    def __init__(
        self, state_dir: Path, model: Model, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.model = model
        self.config = NodeConfig()
        self.waiting: tuple[str, ...] = ()
        self.on_config: Callable[[NodeConfig], object] = lambda _: None
        """Called when another node is found at the socket than before, or the same with other settings."""
        self._path = state_dir / SOCKET_NAME
        self._clock = clock
        self._listeners: list[Listener] = []
        self._behind_s = 0.0  # of our clock to the node's
        self._lag_s = 0.0
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Object]] = {}
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_asking = False
        self._members: dict[PeerId, MemberInfo] = {}
        self._members_at = 0.0
        self._changes = Changes.NONE
        self._goodbye = ""  # the node's last word
        self._known_messages: set[MessageId] = set()
        model.is_remote = True

    # What the screen reads

    @property
    def node(self) -> AttachedHost:
        return self

    def now(self) -> float:
        """The node's clock, as far as it can be told from here."""
        return self._clock() + self._behind_s

    @property
    def lag_s(self) -> float:
        return self._lag_s

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every event and what it changed in the model."""
        self._listeners.append(listener)

    def refresh(self) -> Changes:
        """Ask for the tables, and tell what the last ones changed."""
        if self._writer is not None and not self._is_asking:
            self._begin(self._ask_tables())
        changes, self._changes = self._changes, Changes.NONE
        return changes

    # Connection

    async def start(self) -> None:
        """Connect, and stay so. Raises NoAnswer."""
        await self._connect()
        self._begin(self._stay())

    async def leave(self, timeout_s: float) -> int:
        """Hang up."""
        for task in self._tasks:
            task.cancel()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return 0

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> None:
        try:
            with reachable(self._path) as path:
                reader, writer = await asyncio.open_unix_connection(path, limit=REPLY_BYTES)
        except OSError as error:
            raise NoAnswer(f"no node answers at {self._path}: {error.strerror}") from None
        try:
            check_answerer(writer.get_extra_info("socket"), self._path)
        except UntrustedFile as error:
            writer.close()
            raise NoAnswer(f"{self._path}: {error.strerror}") from None
        try:
            async with asyncio.timeout(ANSWER_S):
                writer.write(b'{"cmd":"watch"}\n')
                told = json.loads(await reader.readline())
            if told["ok"]:
                self._take_all(told)
        except (TimeoutError, OSError, *BROKEN) as error:
            writer.close()
            why = (
                "does not answer" if isinstance(error, TimeoutError) else "is no node of this kind"
            )
            raise NoAnswer(f"what listens at {self._path} {why}") from None
        if not told["ok"]:
            writer.close()
            raise NoAnswer(f"the node at {self._path} answers: {told['error']}")
        self._reader, self._writer = reader, writer
        self._goodbye = ""

    async def _stay(self) -> None:
        while True:
            why = await self._read()
            self._hung_up(why)
            while self._writer is None:
                await asyncio.sleep(RETRY_S)
                with contextlib.suppress(NoAnswer):
                    await self._connect()

    async def _read(self) -> str:
        """Take what comes until nothing comes any more; why."""
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        except OSError as error:
            return error.strerror or "the connection broke"
        except BROKEN:
            return "what it says cannot be understood"
        return f"it stopped: {self._goodbye}" if self._goodbye else "it hung up"

    def _hung_up(self, why: str) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(NoAnswer(f"lost the node: {why}"))
        self._changes |= self.model.lose_touch(why)

    # What it tells

    def _take(self, told: Object) -> None:
        if told["event"] == "reply":
            asked = self._asked.get(told["request"])
            if asked is not None and not asked.done():
                asked.set_result(told)
            return
        now = self.now()
        if told["event"] == "message" and "at" in told:
            self._remember(told, now)
            return
        event = event_of(told, now)
        if event is None:
            return
        if isinstance(event, MemberChanged):
            self._members[event.member.peer_id] = event.member
        self._goodbye = told["reason"] if told["event"] == "stopped" else self._goodbye
        self._tell(event)

    def _tell(self, event: Event) -> None:
        changes = self.model.apply(event)
        for listener in self._listeners:
            listener(event, changes)

    def _remember(self, told: Object, now: float) -> None:
        """A message from before we came."""
        message = message_of(told, now)
        if message.id in self._known_messages:
            return
        self.model.messages.append(message, float(told["at"]))
        for listener in self._listeners:
            listener(MessageReceived(message), Changes.MESSAGES)

    def _take_all(self, told: Object) -> None:
        """What there was when we came."""
        model, wall, status = self.model, time.time(), told["status"]
        self._behind_s = float(told["tables"]["now_s"]) - self._clock()
        now = self.now()
        config = NodeConfig(
            name=status["name"],
            zone=status["zone"],
            cluster=status["cluster"],
            strategy=status["strategy"],
            max_peers=told["max_peers"],
            max_message_size=told["max_message_size"],
        )
        self._known_messages = {entry.message.id for entry in model.messages.latest()}
        rounds = [Completed(wall - each["ago_s"], round_of(each, now)) for each in told["rounds"]]
        traces = [(wall - each["ago_s"], trace_of(each, now)) for each in told["traces"]]
        self._members = {each.peer_id: each for each in map(member_of, told["members"])}
        self._members_at = self._clock()
        me = NodeStarted(
            PeerId.parse(status["peer_id"]), Address.parse(status["address"]), status["epoch"]
        )
        self._tell(me)
        if model.me is not None:
            model.me.started_at = wall - status["uptime_s"]
        model.rounds.clear()
        model.rounds.extend(rounds)
        payloads = {each.trace.id: each.payload for each in model.traces.values()}
        model.traces.clear()
        for at_unix, trace in traces:
            model.traces[trace.id] = Followed(at_unix, payloads.get(trace.id, b""), trace)
        self._take_tables(told["tables"])
        self._changes |= model.regain_touch() | Changes.ROUNDS | Changes.TRACES
        if config != self.config:
            self.config = config
            self.on_config(config)

    def _take_tables(self, told: Object) -> None:
        now = float(told["now_s"])
        self._behind_s = now - self._clock()
        self._lag_s = float(told["lag_ms"]) / 1000
        denied = frozenset(map(PeerId.parse, told.get("denied", ())))
        if denied != self.model.denied:
            self.model.denied = denied
            self._changes |= Changes.PEERS | Changes.MEMBERS
        self._changes |= self.model.refresh(
            [peer_of(each, now) for each in told["peers"]],
            self._members.values(),
            stats_of(told["stats"], now),
            now,
        )

    async def _ask_tables(self) -> None:
        self._is_asking = True
        try:
            with contextlib.suppress(NoAnswer, NotDone):
                told = await self._ask("tables")
                is_old = self._clock() - self._members_at > MEMBERS_S
                if is_old or told["members"] != len(self._members):
                    listed = await self._ask("members")
                    self._members = {
                        each.peer_id: each for each in map(member_of, listed["members"])
                    }
                    self._members_at = self._clock()
                self._take_tables(told)
        except BROKEN:
            if self._writer is not None:
                self._writer.transport.abort()
        finally:
            self._is_asking = False

    # Orders

    async def _ask(self, word: str, **fields: Any) -> Object:
        """The node's reply. Raises NoAnswer, NotDone."""
        if self._writer is None:
            raise NoAnswer(f"lost the node: {self.model.out_of_touch}")
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(
                json.dumps({"cmd": word, "request": number, **fields}).encode() + b"\n"
            )
            async with asyncio.timeout(ANSWER_S):
                reply: Object = await asked
        except TimeoutError:
            raise NoAnswer("the node does not answer") from None
        finally:
            del self._asked[number]
        if not reply["ok"]:
            raise NotDone(str(reply["error"]))
        return reply

    async def _say(self, word: str, payload: bytes, **fields: str) -> Object:
        if len(payload) <= ON_A_LINE:
            return await self._ask(word, base64=b64encode(payload).decode("ascii"), **fields)
        with tempfile.NamedTemporaryFile(prefix="grapevine-") as file:  # for this user alone
            file.write(payload)
            file.flush()
            return await self._ask(word, file=file.name, **fields)

    async def broadcast(self, payload: bytes) -> tuple[MessageId, int]:
        reply = await self._say("broadcast", payload)
        return MessageId.parse(reply["id"]), int(reply["peers"])

    async def trace(self, payload: bytes) -> tuple[MessageId, int]:
        reply = await self._say("trace", payload)
        return MessageId.parse(reply["id"]), int(reply["peers"])

    async def send(self, who: str, payload: bytes) -> MessageId:
        return MessageId.parse((await self._say("send", payload, to=who))["id"])

    async def dial(self, where: str) -> None:
        await self._ask("dial", address=where)

    async def deny(self, who: str) -> PeerId:
        return PeerId.parse((await self._ask("deny", who=who))["peer_id"])

    async def allow(self, who: str) -> PeerId:
        return PeerId.parse((await self._ask("allow", who=who))["peer_id"])

    async def forget(self, peer_id: PeerId) -> None:
        await self._ask("forget", who=str(peer_id))
        self._members.pop(peer_id, None)

    async def start_round(self) -> None:
        await self._ask("round")

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]:
        raise NotDone("the node runs elsewhere: its settings are changed by `edit`")

    async def edit(self) -> RemoteEditing:
        """Its settings, to be changed."""
        return RemoteEditing(_settings_of(await self._ask("settings")), self._change)

    async def _change(self, changes: Mapping[str, str]) -> tuple[Saved, Settings]:
        told = await self._ask("set", changes=dict(changes))
        saved = Saved(
            path=None if told["path"] is None else Path(told["path"]),
            keeps_comments=told["keeps_comments"],
            restart=tuple(told["restart"]),
            overruled=told["overruled"],
        )
        return saved, _settings_of(told)


def _settings_of(told: Object) -> Settings:
    return of_values(Value(each["name"], each["value"], each["origin"]) for each in told["values"])
