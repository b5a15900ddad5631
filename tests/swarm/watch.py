"""The promises of design.md section 4, asked of every event, every datagram and every message.

What must stay true: `Watch` knows what was really said, by whom, and what befell which node when; a
check is wrong rather than lenient. Whatever breaks a promise raises `Violation`, which begins with the
number of the promise. What of a node only its insides tell is asked in `inside`.
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
from grapevine_proto.overlay.sync.antientropy import LAZY_REQUEST_ROUND
from grapevine_proto.sim import SimulatedNode, Simulation
from grapevine_proto.wire import codec
from grapevine_proto.wire.messages import IHave, IWant, RumorCopy, Rumors
from tests.swarm import inside
from tests.swarm.mix import Mix

LEGAL: Final = {(before, after) for (before, _), after in TRANSITIONS.items()}
JUDGED_AFTER_S: Final = 90.0  # a node that was hit is not asked to be blameless for so long
AGES_S: Final = 6.0  # that nobody can measure: ways, and slow nodes on them
CALM_LOSS: Final = 0.1
STRANGER: Final = Address("172.16.0.1", 9999)
LOOK_EVERY: Final = 16  # datagrams: all tables are counted
SECRETS_EVERY: Final = 512  # all that a node would print of itself is searched

Life = tuple[int, int]  # which node, and which of its lives


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Watch:
    """The promises, asked of everything that happens. It knows what was really said."""

    mix: Mix
    sim: Simulation
    said: dict[MessageId, tuple[int, float, bytes]] = field(default_factory=dict)
    whispered: dict[MessageId, tuple[int, float, bytes]] = field(default_factory=dict)
    heard_at: defaultdict[tuple[int, MessageId], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    forgot: list[tuple[int, float, float]] = field(default_factory=list)  # who, when, how far back
    hit_at: dict[int, float] = field(default_factory=dict)  # when something last befell a node
    allowed_to_stranger: int = 0
    states: dict[tuple[int, PeerId], PeerState] = field(default_factory=dict)
    sealed: dict[bytes, bytes] = field(default_factory=dict)
    pushed: set[tuple[Life, tuple[PeerId, int, int], PeerId]] = field(default_factory=set)
    copies: Counter[tuple[Life, tuple[PeerId, int, int]]] = field(default_factory=Counter)
    told: Counter[tuple[Life, StreamRange, PeerId, tuple[float | None, int]]] = field(
        default_factory=Counter
    )
    asked_at: dict[tuple[Life, StreamRange], float] = field(default_factory=dict)
    whispers_at: defaultdict[tuple[int, PeerId], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    slept_s: float = 0.0  # the longest that a machine was suspended: what it had sent is that old
    datagrams: int = 0
    sent: set[int] = field(default_factory=set)  # hashes of datagrams
    taken: set[tuple[Engine, int]] = field(default_factory=set)  # by whom, and the hash
    packets: int = 0  # sealed ones; the others knock at whoever is gone
    secrets: set[str] = field(default_factory=set)  # as they would look if somebody printed them

    def __post_init__(self) -> None:
        self.sim.listen(self.on_event)
        self.sim.watch(self.on_datagram)

    def fail(self, words: str) -> None:
        raise Violation(f"{words}, at {self.sim.now:.3f} s")

    def hit(self, *numbers: int) -> None:
        """Something befalls these nodes: for a while they are not asked to be blameless."""
        for number in numbers:
            self.hit_at[number] = self.sim.now

    def is_sound(self, number: int) -> bool:
        hit_at = self.hit_at.get(number)
        return hit_at is None or self.sim.now - hit_at > JUDGED_AFTER_S

    def keep_secret(self, *secrets: bytes) -> None:
        """These are not to be seen anywhere."""
        for secret in secrets:
            self.secrets |= {repr(secret)[2:-1], secret.hex(), b64encode(secret).decode()}

    # --- events ---------------------------------------------------------------------------------

    def on_event(self, at: float, number: int, event: Event) -> None:
        if not isinstance(event, MessageReceived):  # what people say is theirs
            self._has_no_secret(number, repr(event))
        if isinstance(event, MessageReceived):
            if event.message.is_direct:
                self._on_whisper(at, number, event)
            else:
                self._on_message(at, number, event)
        elif isinstance(event, PeerStateChanged):
            self._on_state(number, event)
        elif isinstance(event, MemberChanged):
            self._on_member(number, event)
        elif isinstance(event, StandingChanged):
            self._on_standing(number, event)

    def _on_message(self, at: float, number: int, event: MessageReceived) -> None:
        message = event.message
        name = f"{message.id.short} at node {number}"
        if message.id not in self.said:
            self.fail(f"1: {name} was never said")
        origin, said_at, payload = self.said[message.id]
        if message.payload != payload:
            self.fail(f"1: {name} is not what node {origin} said")
        self.heard_at[number, message.id].append(at)
        times = len(self.heard_at[number, message.id])
        repeats = sum(
            who == number
            and any(0 <= when - each <= span_s for each in self._knew(number, message.id))
            for who, when, span_s in self.forgot
        )
        if times > (number != origin) + repeats:
            self.fail(f"1: {name} was delivered {times} times, {repeats} of them for crashes")
        ttl_s = self.mix.config.message_dedup_ttl
        if at - said_at > ttl_s + AGES_S + self.slept_s:
            self.fail(f"1: {name} was delivered {at - said_at:.1f} s after it was said")
        is_pushed = self.mix.strategy == "epidemic" and message.via is Via.EAGER
        if is_pushed and message.hops > self.mix.config.epidemic.hops:
            self.fail(f"6: {name} came over {message.hops} hops")

    def _knew(self, number: int, message_id: MessageId) -> list[float]:
        origin, said_at, _ = self.said[message_id]
        known_at = self.heard_at[number, message_id]
        return [*known_at, said_at] if number == origin else known_at

    def _on_whisper(self, at: float, number: int, event: MessageReceived) -> None:
        message = event.message
        to, _, payload = self.whispered.get(message.id, (-1, 0.0, b""))
        if (to, payload) != (number, message.payload):
            self.fail(f"1: the private {message.id.short} at node {number} was not for it")
        self.heard_at[number, message.id].append(at)
        if len(self.heard_at[number, message.id]) > 1:
            self.fail(f"1: the private {message.id.short} came twice")
        recent = self.whispers_at[number, message.origin]
        recent.append(at)
        limit = self.mix.config.rate_limit
        while recent[0] < at - 1.0:
            recent.pop(0)
        if len(recent) > limit.capacity + limit.refill_rate + 1:
            self.fail(f"5: node {number} took {len(recent)} messages of one peer in a second")

    def _on_state(self, number: int, event: PeerStateChanged) -> None:
        peer, previous, state = event.peer, event.previous, event.peer.state
        words = f"node {number} moved {peer.name} from {previous} to {state} ({event.reason})"
        if previous is not None and previous != state and (previous, state) not in LEGAL:
            self.fail(f"7: {words}")
        known = self.states.get((number, peer.peer_id))
        if None not in (known, previous) and known != previous:
            self.fail(f"7: {words}, but it was {known}")
        self.states[number, peer.peer_id] = state
        is_lost = previous in LINKED_STATES and state is PeerState.DISCONNECTED
        if is_lost and "silent" in event.reason and self.mix.network.loss <= CALM_LOSS:
            self._on_death(number, peer.peer_id, event.reason)

    def _on_member(self, number: int, event: MemberChanged) -> None:
        if event.member.status is MemberStatus.DOWN and not self.mix.network.loss:
            self._on_death(number, event.member.peer_id, "down")

    def _on_standing(self, number: int, event: StandingChanged) -> None:
        """Nobody honest is judged, whatever hit it. The liar is the last node."""
        subject = next((each.number for each in self.sim.nodes if each.peer_id == event.peer), None)
        is_liar = self.mix.has_liar and subject == self.mix.nodes - 1
        if event.standing is not Standing.NORMAL and subject is not None and not is_liar:
            self.fail(f"node {number} holds node {subject} {event.standing}: {event.reason}")

    def _on_death(self, number: int, peer_id: PeerId, words: str) -> None:
        """Nobody is given up who was not hit by anything, by a node that was not either."""
        subject = next((each.number for each in self.sim.nodes if each.peer_id == peer_id), None)
        if subject is not None and self.is_sound(number) and self.is_sound(subject):
            self.fail(f"9: node {number} gave up node {subject}: {words}")

    # --- datagrams ------------------------------------------------------------------------------

    def on_datagram(self, _: float, number: int, datagram: bytes, to: Address) -> None:
        self.sent.add(hash(datagram))
        if to == STRANGER:
            self.allowed_to_stranger -= len(datagram)
            if self.allowed_to_stranger < 0:
                self.fail(f"4: node {number} answered a stranger with {len(datagram)} bytes")
        if datagram[0] == codec.DATA:
            self.packets += 1
            head = datagram[:17]  # type, receiver's session, counter
            if self.sealed.setdefault(head, datagram) != datagram:
                self.fail(f"7: node {number} used a nonce twice")
        self.datagrams += 1
        if self.datagrams % LOOK_EVERY == 0:
            self.check_caps(self.sim.nodes[number])
        if self.datagrams % SECRETS_EVERY == 0:
            self.check_secrets(self.sim.nodes[number])

    def check_caps(self, node: SimulatedNode) -> None:
        """Every table within its limit."""
        if node.engine is None:
            return
        for name, size, limit in inside.tables(node.engine):
            if size > limit:
                self.fail(f"5: node {node.number} has {size} {name}, of {limit}")

    def check_secrets(self, node: SimulatedNode) -> None:
        """Nothing that a node prints of itself holds a key."""
        if node.engine is not None:
            self.keep_secret(inside.secret_of(node.engine))
            self._has_no_secret(node.number, inside.printed(node.engine))

    def _has_no_secret(self, number: int, words: str) -> None:
        for secret in self.secrets:
            if secret in words:
                self.fail(f"10: node {number} tells a secret")

    # --- what comes from outside ----------------------------------------------------------------

    def on_arrival(self, engine: Engine, datagram: bytes, receive: Callable[[], None]) -> None:
        """What nobody sent, for it was changed on its way, is counted once, and so is what comes
        again, which changes nothing."""
        is_ours, was_taken = hash(datagram) in self.sent, (engine, hash(datagram)) in self.taken
        is_data = datagram[0] == codec.DATA
        looks = was_taken or not is_ours
        before = inside.kept(engine) if looks else ()
        refused = inside.refusals(engine)
        receive()
        more = inside.refusals(engine) - refused
        if is_data and is_ours and not more:
            self.taken.add((engine, hash(datagram)))
        if looks and more != 1:
            words = "comes again" if was_taken else "was changed on its way"
            self.fail(f"3: what {words} was counted {more} times")
        if looks and inside.kept(engine) != before:
            self.fail(f"4: what nobody sent, or twice, changed {before} to {inside.kept(engine)}")

    def on_stranger(self, engine: Engine, datagram: bytes, receive: Callable[[], None]) -> None:
        """A stranger's datagram: answered in as few bytes, or counted once; and nothing is kept. A
        recorded packet of a session that had been lost on its way is no stranger's, wherever it
        comes from."""
        if datagram[:1] == bytes((codec.DATA,)):
            receive()
            return
        before, refused = inside.kept(engine), inside.refusals(engine)
        answers = inside.waiting(engine)
        receive()
        more = inside.refusals(engine) - refused
        if more != (inside.waiting(engine) == answers):
            self.fail(f"3: a stranger's datagram of {len(datagram)} bytes was counted {more} times")
        if inside.kept(engine) != before:
            self.fail(f"4: something of a stranger was kept: {before}, now {inside.kept(engine)}")

    # --- what nodes say to each other -----------------------------------------------------------

    def on_send(self, engine: Engine, send: Send) -> None:
        node = next((each for each in self.sim.nodes if each.engine is engine), None)
        if node is None:
            return
        life = (node.number, node.run_count)
        if isinstance(send.message, Rumors):
            for copy in send.message.copies:
                self._on_push(node, life, copy, send.peers)
        elif isinstance(send.message, IHave):
            for ids in send.message.ranges:
                for peer in send.peers:
                    told = life, ids, peer, inside.conversation(node.engine, peer)
                    self.told[told] += 1
                    if self.told[told] > 1:
                        self.fail(f"6: node {node.number} told a peer twice of an id")
        elif isinstance(send.message, IWant) and send.message.round == LAZY_REQUEST_ROUND:
            for ids in send.message.ranges:
                key = life, ids
                if self.sim.now - self.asked_at.get(key, -1.0) < 0.05:
                    self.fail(f"6: node {node.number} asked two peers at once")
                self.asked_at[key] = self.sim.now

    def _on_push(
        self, node: SimulatedNode, life: Life, copy: RumorCopy, peers: tuple[PeerId, ...]
    ) -> None:
        rumor = copy.rumor
        key = (rumor.origin, rumor.epoch, rumor.first)
        for peer in peers:
            if (life, key, peer) in self.pushed:
                self.fail(f"6: node {node.number} pushed a message to one peer twice")
            self.pushed.add((life, key, peer))
        self.copies[life, key] += len(peers)
        most = self.mix.config.epidemic.max_forwards
        if self.mix.strategy == "epidemic" and self.copies[life, key] > most:
            self.fail(f"6: node {node.number} pushed {self.copies[life, key]} copies of a message")
