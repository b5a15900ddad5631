"""Runs a node in this process and keeps its model, for the app and for scripts alike.

What must stay true:

- Events reach the model and then the listeners in the order the node told them, at once and cheaply.
- A name that two members bear is never guessed at: it is refused, with both ids.
- Nothing here knows of a screen or of a stream: the same host stands behind both.

Driven by `app` or `headless`: `start`, orders, `refresh` now and then, `leave`.
"""

from __future__ import annotations

import asyncio
import difflib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import GrapevineError, NotRunning, StateLockedError, UnknownPeer
from grapevine_proto.events import (
    Event,
    MemberStatus,
    MessageSent,
    NodeStarted,
)
from grapevine_proto.ids import PEER_ID_BYTES, Address, MessageId, PeerId
from grapevine_proto.node import Node
from grapevine_tui.model import Changes, Model
from grapevine_tui.text import printable

LEAST_PREFIX: Final = 4  # hex digits of an id that are taken for one
NAMED_IN_ERRORS: Final = 4  # bearers of one name that an error lists
SENT_KEPT: Final = 256  # broadcasts whose reach is remembered until somebody asks
REACH_WAIT_S: Final = 2.0  # the node tells within a second where all peers are slow, else at once
SETTLED_S: Final = 2.5  # digests leave out what is newer than 2 s, as on its way by itself

Listener = Callable[[Event, Changes], None]


class Host:
    """One node and what there is to show of it.

    `spare_state_dirs` are tried in turn while the state directory before is in use. All that acts
    raises what `Node` raises: NotRunning before `start` and after `leave`.
    """

    def __init__(
        self,
        config: NodeConfig,
        state_dir: Path | None,
        *,
        model: Model | None = None,
        spare_state_dirs: Iterable[Path] = (),
    ) -> None:
        self.model = Model() if model is None else model
        self.state_dir = state_dir
        self.is_started = asyncio.Event()
        self.started_at = 0.0  # by the node's clock
        self.programs: Counter[str] = Counter()
        """How programs after ``--on`` ended, by outcome."""
        self.waiting: tuple[str, ...] = ()
        """Names of settings that were changed and wait for a restart."""
        self._config = self._wished = config
        self._spare_state_dirs = list(spare_state_dirs)
        self._listeners: list[Listener] = []
        self._denied_live: dict[PeerId, bool] = {}
        self._reached: OrderedDict[MessageId, int] = OrderedDict()
        self._asked: dict[MessageId, asyncio.Future[int]] = {}
        self._unheard_at = 0.0
        self.model.denied = frozenset(config.denied)
        self.node = self._new_node()

    @property
    def config(self) -> NodeConfig:
        """What the node goes by now. What was asked for and waits for a restart is not in it."""
        return self._config

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every event and what it changed in the model. Keep it short."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Start the node. Raises ConfigError, BindError, StateLockedError."""
        while True:
            try:
                await self.node.start()
            except StateLockedError:
                if not self._spare_state_dirs:
                    raise
                self.state_dir = self._spare_state_dirs.pop(0)
                self.node = self._new_node()
            else:
                self.is_started.set()
                self.refresh()
                return

    async def leave(self, timeout_s: float) -> int:
        """Leave politely within `timeout_s`; how many messages nobody took."""
        return await self.node.leave(timeout_s)

    async def broadcast(self, payload: bytes) -> tuple[MessageId, int]:
        """Tell everyone: the message's id, and how many peers it is on its way to at once."""
        return await self._reach(await self.node.broadcast(payload))

    async def trace(self, payload: bytes) -> tuple[MessageId, int]:
        """The same, and have those who get it say so: TraceUpdated tells."""
        return await self._reach(await self.node.trace(payload))

    async def _reach(self, message_id: MessageId) -> tuple[MessageId, int]:
        if message_id not in self._reached:
            told = self._asked[message_id] = asyncio.get_running_loop().create_future()
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(told, REACH_WAIT_S)
            finally:
                del self._asked[message_id]
        return message_id, self._reached.pop(message_id, 0)

    @property
    def untaken(self) -> int:
        """How many of our broadcasts nobody is known to have."""
        return self.node.untaken

    def hand_over(self) -> None:
        """Begin a round of repair if that could bring what is untaken to somebody."""
        if self.untaken and self.node.now() >= self._unheard_at + SETTLED_S:
            self.node.start_round()

    def failure(self) -> GrapevineError | None:
        """Why the node stopped by itself; None where it runs or was asked to leave."""
        try:
            self.node.start_round()  # the cheapest of the orders, which all raise it
        except NotRunning:
            return None
        except GrapevineError as error:
            return error
        return None

    async def send(self, who: str, payload: bytes) -> MessageId:
        """Tell one linked peer alone. `who`: a name, an id or its beginning, or an address."""
        return await self.node.send(self.resolve(who), payload)

    async def dial(self, where: str) -> None:
        """Knock at ``host:port``; how it ends is told by events. Raises ConfigError, UnknownPeer."""
        await self.node.dial(where)

    def reconfigure(self, config: NodeConfig) -> tuple[str, ...]:
        """Take over `config` as far as a running node can; the fields that need a restart. Who was
        denied or allowed by an order stays so."""
        denied = set(config.denied) | {each for each, is_out in self._denied_live.items() if is_out}
        denied -= {each for each, is_out in self._denied_live.items() if not is_out}
        config = config.replace(denied=sorted(denied))
        restart = self.node.reconfigure(config)
        self._wished, self._config = config, self.node.config
        self.model.denied = frozenset(self._config.denied)
        return restart

    async def deny(self, who: str) -> PeerId:
        """Shut out whom `who` means, until this run ends; a whole id need not be known here.
        Raises UnknownPeer."""
        peer_id = _as_peer_id(who) or self.resolve(who)
        if peer_id == self.node.peer_id:
            raise UnknownPeer("this node cannot shut itself out")
        return self._set_denied(peer_id, is_denied=True)

    async def forget(self, peer_id: PeerId) -> None:
        """Strike somebody who is gone out of the tables. Raises UnknownPeer where it is not gone."""
        self.node.forget(peer_id)

    async def start_round(self) -> None:
        """Begin an anti-entropy round now."""
        self.node.start_round()

    async def allow(self, who: str) -> PeerId:
        """Let in again whom `who` means: somebody who is shut out. Raises UnknownPeer."""
        who, prefix = who.strip(), _as_prefix(who.strip())
        denied = self._config.denied
        found = [each for each in denied if prefix and str(each).startswith(prefix)]
        found = found or [each for each in self._matches(who) if each in denied]
        if len(found) != 1:
            many = "more than one" if found else "nobody"
            raise UnknownPeer(f"{many} who is shut out is called {printable(who)!r}")
        return self._set_denied(found[0], is_denied=False)

    def _set_denied(self, peer_id: PeerId, *, is_denied: bool) -> PeerId:
        before = self._denied_live.get(peer_id)
        self._denied_live[peer_id] = is_denied
        try:
            self.reconfigure(self._wished)
        except GrapevineError:
            del self._denied_live[peer_id]
            if before is not None:
                self._denied_live[peer_id] = before
            raise
        return peer_id

    def refresh(self) -> Changes:
        """Bring the model's tables up to now."""
        node = self.node
        return self.model.refresh(node.peers(), node.members(), node.stats(), node.now())

    def resolve(self, who: str) -> PeerId:
        """Whom `who` means: a name, an id or at least four digits of its beginning, an address.

        Raises UnknownPeer with words for people: nobody, more than one, or this very node.
        """
        who = who.strip()
        found = self._matches(who) - {self.node.peer_id}
        if len(found) == 1:
            return found.pop()
        if found:
            ids = sorted(str(peer_id) for peer_id in found)
            listed = ", ".join(ids[:NAMED_IN_ERRORS]) + (
                ", ..." if len(ids) > NAMED_IN_ERRORS else ""
            )
            raise UnknownPeer(
                f"{printable(who)!r} may be any of {len(ids)}: {listed}; give more of the id"
            )
        if who and self._matches(who):
            raise UnknownPeer(f"{printable(who)!r} is this node itself")
        raise UnknownPeer(f"nobody here is called {printable(who)!r}{self._nearest(who)}")

    def name_of(self, peer_id: PeerId) -> str:
        """What a node calls itself, as it came; empty: not known."""
        if peer_id == self.node.peer_id:
            return self._config.name
        known = self.model.peers.get(peer_id) or self.model.members.get(peer_id)
        return known.name if known is not None else ""

    def _new_node(self) -> Node:
        node = Node(self._config, state_dir=self.state_dir)
        node.on_event(self._fold)
        return node

    def _fold(self, event: Event) -> None:
        match event:
            case NodeStarted():
                self.started_at = self.node.now()
            case MessageSent():
                self._note_reach(event)
            case _:
                pass
        changes = self.model.apply(event)
        for listener in self._listeners:
            listener(event, changes)

    def _note_reach(self, event: MessageSent) -> None:
        if event.peers == 0:
            self._unheard_at = event.message.received_at
        self._reached[event.message.id] = event.peers
        while len(self._reached) > SENT_KEPT:
            self._reached.popitem(last=False)
        asked = self._asked.get(event.message.id)
        if asked is not None and not asked.done():
            asked.set_result(event.peers)

    def _matches(self, who: str) -> set[PeerId]:
        # A member that left bears its name no more; one that is down may be back, and is not to be
        # impersonated meanwhile.
        named = [(self.node.peer_id, self._config.name)] + [
            (member.peer_id, "" if member.status is MemberStatus.LEFT else member.name)
            for member in self.node.members()
        ]
        prefix, address = _as_prefix(who), _as_address(who)
        found = {
            peer_id
            for peer_id, name in named
            if (name and name == who) or (prefix and str(peer_id).startswith(prefix))
        }
        # Where a session proved a member to be, not where its record claims to be.
        proved = None if address is None else self.node.whose(address)
        found |= set() if proved is None else {proved}
        return found | ({self.node.peer_id} if self.node.address == address else set())

    def _nearest(self, who: str) -> str:
        names = {peer.name for peer in self.node.peers()}
        names |= {member.name for member in self.node.members()}
        close = difflib.get_close_matches(who[:64], sorted(names - {""})[:1000], n=1)
        return f"; did you mean {printable(close[0])}?" if close else ""


def _as_prefix(who: str) -> str:
    """`who` as the beginning of an id in hex; empty where it is none."""
    text = who.lower()
    is_hex = len(text) >= LEAST_PREFIX and all(digit in "0123456789abcdef" for digit in text)
    return text if is_hex and len(text) <= 2 * PEER_ID_BYTES else ""


def _as_peer_id(who: str) -> PeerId | None:
    with suppress(ValueError):
        return PeerId.parse(who.strip().lower())
    return None


def _as_address(who: str) -> Address | None:
    with suppress(ValueError):
        return Address.parse(who)
    return None
