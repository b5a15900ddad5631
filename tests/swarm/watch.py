"""Checks the promises of docs/reference/simulation.md on every event, datagram and message.

Invariants:

- `Watch` knows what was really sent, by which node, and which faults affected which node when. A
  check fails rather than being lenient.
- A broken promise raises `Violation`, whose text begins with the number of the promise. Internals
  of a node are read through `inside`.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from grapevine_proto import MessageId, PeerId, PeerState
from grapevine_proto.engine import Engine
from grapevine_proto.events import (
    EntryChanged,
    Event,
    MemberChanged,
    MemberStatus,
    MessageReceived,
    PeerStateChanged,
    Standing,
    StandingChanged,
    Via,
)
from grapevine_proto.ids import Address, StreamRange
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.peers import LINKED_STATES, TRANSITIONS
from grapevine_proto.sim import SimulatedNode, Simulation
from grapevine_proto.topics import TopicPatterns
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import LAZY_REQUEST_ROUND, IHave, IWant, RumorCopy, Rumors
from tests.swarm import inside
from tests.swarm.mix import Mix

LEGAL: Final = {(before, after) for (before, _), after in TRANSITIONS.items()}
SETTLE_S: Final = 90.0  # an affected node may report wrong statuses for this long
UNMEASURED_AGE_S: Final = 6.0  # of age that no node can measure: transit, and slow nodes on the way
CALM_LOSS: Final = 0.1
UNAUTHENTICATED: Final = Address("172.16.0.1", 9999)
CHECK_EVERY: Final = 16  # datagrams between two counts of all tables
SECRETS_EVERY: Final = 512  # datagrams between two searches of what a node would print

Run = tuple[int, int]  # node number and run number


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Watch:
    """Checks everything that happens against what was really sent."""

    mix: Mix
    sim: Simulation
    sent: dict[MessageId, tuple[int, float, bytes]] = field(default_factory=dict)
    direct_sent: dict[MessageId, tuple[int, float, bytes]] = field(default_factory=dict)
    topics: dict[MessageId, str] = field(default_factory=dict)
    delivered_at: defaultdict[tuple[int, MessageId], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    # node, time, span of forgotten state
    state_losses: list[tuple[int, float, float]] = field(default_factory=list)
    affected_at: dict[int, float] = field(default_factory=dict)  # time of the last fault per node
    unauthenticated_limit: int = 0
    states: dict[tuple[int, PeerId], PeerState] = field(default_factory=dict)
    sealed: dict[bytes, bytes] = field(default_factory=dict)
    pushed: set[tuple[Run, tuple[PeerId, int, int], PeerId]] = field(default_factory=set)
    copies: Counter[tuple[Run, tuple[PeerId, int, int]]] = field(default_factory=Counter)
    announced: Counter[tuple[Run, StreamRange, PeerId, tuple[float | None, int], int]] = field(
        default_factory=Counter
    )
    # how often a peer has changed its address, as a run of a node sees it, and where it is
    paths: dict[tuple[Run, PeerId], tuple[int, Address | None]] = field(default_factory=dict)
    # when a run of a node last requested something, and from whom
    requested: dict[tuple[Run, StreamRange], tuple[float, PeerId]] = field(default_factory=dict)
    direct_received_at: defaultdict[tuple[int, PeerId], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    # writer, time, key and value (None: deleted) of each entry
    written: dict[MessageId, tuple[int, float, str, bytes | None]] = field(default_factory=dict)
    # the newest entry of an owner's key that a run of a node has seen
    newest_seen: dict[tuple[Run, PeerId, str], MessageId] = field(default_factory=dict)
    suspended_s: float = 0.0  # longest suspension of a node; what it had queued is that old
    datagrams: int = 0
    datagram_hashes: set[int] = field(default_factory=set)  # hashes of datagrams
    accepted: set[tuple[Engine, int]] = field(default_factory=set)  # receiver and hash
    packets: int = 0  # sealed ones; the others are dials
    secrets: set[str] = field(default_factory=set)  # in every form in which they could be printed

    def __post_init__(self) -> None:
        self.sim.listen(self.on_event)
        self.sim.watch(self.on_datagram)

    def fail(self, text: str) -> None:
        raise Violation(f"{text}, at {self.sim.now:.3f} s")

    def affect(self, *numbers: int) -> None:
        """A fault affects these nodes: they may report wrong statuses for a while."""
        for number in numbers:
            self.affected_at[number] = self.sim.now

    def is_unaffected(self, number: int) -> bool:
        affected_at = self.affected_at.get(number)
        return affected_at is None or self.sim.now - affected_at > SETTLE_S

    def add_secret(self, *secrets: bytes) -> None:
        """These bytes must not appear anywhere."""
        for secret in secrets:
            self.secrets |= {repr(secret)[2:-1], secret.hex(), b64encode(secret).decode()}

    # --- events ---------------------------------------------------------------------------------

    def on_event(self, at: float, number: int, event: Event) -> None:
        if not isinstance(event, MessageReceived):  # payloads may contain anything
            self._check_no_secret(number, repr(event))
        if isinstance(event, MessageReceived):
            if event.message.is_direct:
                self._on_direct(at, number, event)
            else:
                self._on_message(at, number, event)
        elif isinstance(event, PeerStateChanged):
            self._on_state(number, event)
        elif isinstance(event, MemberChanged):
            self._on_member(number, event)
        elif isinstance(event, StandingChanged):
            self._on_standing(number, event)
        elif isinstance(event, EntryChanged):
            self._on_entry(number, event)

    def _on_entry(self, number: int, event: EntryChanged) -> None:
        """An entry is what its owner wrote, and never older than what the node has seen: a deleted key does
        not return."""
        name = f"{event.key} of {event.owner.short} at node {number}"
        writer, _, key, value = self.written.get(event.id, (-1, 0.0, "", None))
        if writer < 0 or key != event.key or (value != event.value and event.value is not None):
            self.fail(f"13: {name} was never written as {event.value!r}")
        run = (number, self.sim.nodes[number].run_count)
        seen = self.newest_seen.get((run, event.owner, event.key))
        if seen is not None and event.id < seen:
            self.fail(f"13: {name} went back from {seen.sequence} to {event.id.sequence}")
        self.newest_seen[run, event.owner, event.key] = event.id

    def _on_message(self, at: float, number: int, event: MessageReceived) -> None:
        message = event.message
        name = f"{message.id.short} at node {number}"
        if message.id not in self.sent:
            self.fail(f"1: {name} was never sent")
        origin, sent_at, payload = self.sent[message.id]
        if message.payload != payload:
            self.fail(f"1: {name} is not what node {origin} sent")
        if message.topic != self.topics.get(message.id, ""):
            self.fail(f"1: {name} has the topic {message.topic!r}")
        if not self.is_delivered_by(number, message.id):
            self.fail(f"2: {name} is of a topic that the node does not subscribe to")
        self.delivered_at[number, message.id].append(at)
        times = len(self.delivered_at[number, message.id])
        repeats = sum(
            subject == number
            and any(0 <= when - each <= span_s for each in self._known_at(number, message.id))
            for subject, when, span_s in self.state_losses
        )
        if times > (number != origin) + repeats:
            self.fail(f"1: {name} was delivered {times} times, {repeats} of them for crashes")
        ttl_s = self.mix.config.message_dedup_ttl
        if at - sent_at > ttl_s + UNMEASURED_AGE_S + self.suspended_s:
            self.fail(f"1: {name} was delivered {at - sent_at:.1f} s after it was sent")
        is_pushed = self.mix.strategy == "epidemic" and message.via is Via.EAGER
        if is_pushed and message.hops > self.mix.config.epidemic.hops:
            self.fail(f"6: {name} came over {message.hops} hops")

    def is_delivered_by(self, number: int, message_id: MessageId) -> bool:
        """Whether the node delivers messages of this topic, if any."""
        topic = self.topics.get(message_id)
        patterns = self.sim.nodes[number].config.topics
        return topic is None or TopicPatterns(patterns).matches(topic)

    def _known_at(self, number: int, message_id: MessageId) -> list[float]:
        origin, sent_at, _ = self.sent[message_id]
        known_at = self.delivered_at[number, message_id]
        return [*known_at, sent_at] if number == origin else known_at

    def _on_direct(self, at: float, number: int, event: MessageReceived) -> None:
        message = event.message
        to, _, payload = self.direct_sent.get(message.id, (-1, 0.0, b""))
        if (to, payload) != (number, message.payload):
            self.fail(f"1: the direct message {message.id.short} at node {number} was not for it")
        self.delivered_at[number, message.id].append(at)
        if len(self.delivered_at[number, message.id]) > 1:
            self.fail(f"1: the direct message {message.id.short} came twice")
        recent = self.direct_received_at[number, message.origin]
        recent.append(at)
        limit = self.mix.config.rate_limit
        while recent[0] < at - 1.0:
            recent.pop(0)
        if len(recent) > limit.capacity + limit.refill_rate + 1:
            self.fail(f"5: node {number} accepted {len(recent)} messages of one peer in a second")

    def _on_state(self, number: int, event: PeerStateChanged) -> None:
        peer, previous, state = event.peer, event.previous, event.peer.state
        text = f"node {number} moved {peer.name} from {previous} to {state} ({event.reason})"
        if previous is not None and previous != state and (previous, state) not in LEGAL:
            self.fail(f"7: {text}")
        known = self.states.get((number, peer.peer_id))
        if None not in (known, previous) and known != previous:
            self.fail(f"7: {text}, but it was {known}")
        self.states[number, peer.peer_id] = state
        is_lost = previous in LINKED_STATES and state is PeerState.DISCONNECTED
        if is_lost and "silent" in event.reason and self.mix.network.loss <= CALM_LOSS:
            self._on_death(number, peer.peer_id, event.reason)

    def _on_member(self, number: int, event: MemberChanged) -> None:
        if event.member.status is MemberStatus.DOWN and not self.mix.network.loss:
            self._on_death(number, event.member.peer_id, "down")

    def _on_standing(self, number: int, event: StandingChanged) -> None:
        """No honest node is penalized, whatever affected it. The malicious one is the last node."""
        subject = next((each.number for each in self.sim.nodes if each.peer_id == event.peer), None)
        is_malicious = self.mix.has_malicious and subject == self.mix.nodes - 1
        if event.standing is not Standing.NORMAL and subject is not None and not is_malicious:
            self.fail(f"node {number} holds node {subject} {event.standing}: {event.reason}")

    def _on_death(self, number: int, peer_id: PeerId, text: str) -> None:
        """No unaffected node is declared dead by an unaffected one."""
        subject = next((each.number for each in self.sim.nodes if each.peer_id == peer_id), None)
        if subject is not None and self.is_unaffected(number) and self.is_unaffected(subject):
            self.fail(f"9: node {number} declared node {subject} dead: {text}")

    # --- datagrams ------------------------------------------------------------------------------

    def on_datagram(self, _: float, number: int, datagram: bytes, to: Address) -> None:
        self.datagram_hashes.add(hash(datagram))
        if to == UNAUTHENTICATED:
            self.unauthenticated_limit -= len(datagram)
            if self.unauthenticated_limit < 0:
                self.fail(
                    f"4: node {number} answered an unauthenticated peer with {len(datagram)} bytes"
                )
        if datagram[0] == codec.DATA:
            self.packets += 1
            head = datagram[:17]  # type, receiver's session, counter
            if self.sealed.setdefault(head, datagram) != datagram:
                self.fail(f"7: node {number} used a nonce twice")
        self.datagrams += 1
        if self.datagrams % CHECK_EVERY == 0:
            self.check_limits(self.sim.nodes[number])
        if self.datagrams % SECRETS_EVERY == 0:
            self.check_secrets(self.sim.nodes[number])

    def check_limits(self, node: SimulatedNode) -> None:
        """Check that every table is within its limit."""
        if node.engine is None:
            return
        for name, size, limit in inside.tables(node.engine):
            if size > limit:
                self.fail(f"5: node {node.number} has {size} {name}, of {limit}")

    def check_secrets(self, node: SimulatedNode) -> None:
        """Check that nothing a node prints contains a secret."""
        if node.engine is not None:
            self.add_secret(inside.secret_of(node.engine))
            self._check_no_secret(node.number, inside.printed_state(node.engine))

    def _check_no_secret(self, number: int, text: str) -> None:
        for secret in self.secrets:
            if secret in text:
                self.fail(f"10: node {number} reveals a secret")

    # --- received datagrams ---------------------------------------------------------------------

    def on_arrival(self, engine: Engine, datagram: bytes, receive: Callable[[], None]) -> None:
        """A datagram corrupted in transit, or received again, is dropped and counted once and
        changes nothing.
        """
        is_ours, was_accepted = (
            hash(datagram) in self.datagram_hashes,
            (engine, hash(datagram)) in self.accepted,
        )
        is_data = datagram[0] == codec.DATA
        is_invalid = was_accepted or not is_ours
        before = inside.protected_tables(engine) if is_invalid else ()
        dropped_before = inside.drop_count(engine)
        receive()
        new_drops = inside.drop_count(engine) - dropped_before
        if is_data and is_ours and not new_drops:
            self.accepted.add((engine, hash(datagram)))
        if is_invalid and new_drops != 1:
            text = "comes again" if was_accepted else "was corrupted in transit"
            self.fail(f"3: a datagram that {text} was counted {new_drops} times")
        if is_invalid and inside.protected_tables(engine) != before:
            self.fail(
                f"4: a corrupted or repeated datagram changed {before} to {inside.protected_tables(engine)}"
            )

    def on_unauthenticated(
        self, engine: Engine, datagram: bytes, receive: Callable[[], None]
    ) -> None:
        """A datagram of an unauthenticated peer is answered with no more bytes than it has, or
        dropped and counted once, and leaves no state. A replayed packet of a session or a dial that was
        lost the first time is valid from any address.
        """
        if datagram[:1] and datagram[0] in (codec.DATA, codec.CHALLENGE, codec.WELCOME):
            receive()
            return
        before, dropped_before = inside.protected_tables(engine), inside.drop_count(engine)
        answers = inside.outbox_size(engine)
        receive()
        new_drops = inside.drop_count(engine) - dropped_before
        if new_drops != (inside.outbox_size(engine) == answers):
            self.fail(f"3: {len(datagram)} unauthenticated bytes were counted {new_drops} times")
        if inside.protected_tables(engine) != before:
            self.fail(
                f"4: an unauthenticated peer left state: {before}, now {inside.protected_tables(engine)}"
            )

    # --- messages between nodes -----------------------------------------------------------------

    def on_send(self, engine: Engine, send: Send) -> None:
        node = next((each for each in self.sim.nodes if each.engine is engine), None)
        if node is None:
            return
        run = (node.number, node.run_count)
        if isinstance(send.message, Rumors):
            for copy in send.message.copies:
                self._on_push(node, run, copy, send.peers)
        elif isinstance(send.message, IHave):
            for ids in send.message.ranges:
                for peer in send.peers:
                    link = inside.link_identity(node.engine, peer)
                    announced = run, ids, peer, link, self._path_number(node, run, peer)
                    self.announced[announced] += 1
                    if self.announced[announced] > 1:
                        self.fail(f"6: node {node.number} announced an id twice to a peer")
        elif isinstance(send.message, IWant) and send.message.round == LAZY_REQUEST_ROUND:
            for ids in send.message.ranges:
                last = self.requested.get((run, ids))
                is_recent = last is not None and self.sim.now - last[0] < 0.05
                # without a link any more, that peer does not answer
                if last is not None and is_recent and inside.is_linked(engine, last[1]):
                    self.fail(f"6: node {node.number} requested from two peers at once")
                self.requested[run, ids] = self.sim.now, send.peers[0]

    def _path_number(self, node: SimulatedNode, run: Run, peer: PeerId) -> int:
        """How often a peer has changed its address: what was announced to the one before may be lost."""
        address = inside.address_of(node.engine, peer)
        number, last = self.paths.get((run, peer), (0, address))
        self.paths[run, peer] = (number + (address != last), address)
        return self.paths[run, peer][0]

    def _on_push(
        self, node: SimulatedNode, run: Run, copy: RumorCopy, peers: tuple[PeerId, ...]
    ) -> None:
        rumor = copy.rumor
        key = (rumor.origin, rumor.epoch, rumor.first)
        for peer in peers:
            if (run, key, peer) in self.pushed:
                self.fail(f"6: node {node.number} pushed a message to one peer twice")
            self.pushed.add((run, key, peer))
        self.copies[run, key] += len(peers)
        limit = self.mix.config.epidemic.max_forwards
        if self.mix.strategy == "epidemic" and self.copies[run, key] > limit:
            self.fail(f"6: node {node.number} pushed {self.copies[run, key]} copies of a message")
