"""What the swarm has to know of a node's insides, and reach there.

What must stay true: this is the only file of the swarm that uses a private name of the node's, so that
whoever changes one has one place to look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from grapevine_proto import MessageId, PeerId
from grapevine_proto.engine import Engine
from grapevine_proto.ids import Address
from grapevine_proto.overlay.broadcast.ihave import MISSING_LIMIT, UNANNOUNCED_LIMIT
from grapevine_proto.overlay.broadcast.large_messages import PULLS_LIMIT as ANNOUNCED_LIMIT
from grapevine_proto.overlay.effects import Send
from grapevine_proto.overlay.store.verification import LIMITER_KEYS_LIMIT
from grapevine_proto.overlay.swim.indirect_probes import INDIRECT_PROBES_LIMIT
from grapevine_proto.overlay.swim.suspicion_table import SUSPICIONS_LIMIT
from grapevine_proto.overlay.topology.dialer import PREFERRED_LIMIT
from grapevine_proto.overlay.trace.reverse_paths import ROUTES_LIMIT, UNACKED_BATCHES_LIMIT
from grapevine_proto.overlay.trace.trace import TRACES_LIMIT
from grapevine_proto.overlay.transmit_queue import UPDATES_LIMIT
from grapevine_proto.sim import SimulatedNode, Simulation
from grapevine_proto.transport.handshake.responder import UNCONFIRMED_SESSIONS_LIMIT
from grapevine_proto.transport.link_table import CLOSED_SESSIONS_LIMIT
from grapevine_proto.transport.peer_limits import TRACKED_PEERS_LIMIT

Table = tuple[str, int, int]  # how it is called, how much is in it, how much may be


def tables(engine: Engine) -> Iterator[Table]:
    """All that grows with what others do."""
    config, stats = engine.config, engine.stats()
    limits, membership, lazy = (
        config.limits,
        engine._overlay.membership,
        engine._overlay.dissemination.lazy_push,
    )
    links, handshakes = engine._transport.links, engine._transport.handshakes
    yield "links", len(links), config.max_peers
    yield "sessions", stats.sessions, limits.sessions
    yield "dials", len(handshakes), limits.dials
    yield "parting links", len(links._closed), CLOSED_SESSIONS_LIMIT
    yield "accounts", len(links.peer_limits), TRACKED_PEERS_LIMIT
    yield "unconfirmed sessions", handshakes._responder.pending, UNCONFIRMED_SESSIONS_LIMIT
    yield "peers", len(list(engine._overlay.peers)), limits.sessions + config.max_peers
    yield "short sessions", len(engine._transport.transients), limits.transient_sessions
    yield "members", stats.members, limits.members + config.max_peers  # linked ones always
    yield (
        "cases",
        len(membership.detector.suspicions._suspicions),
        SUSPICIONS_LIMIT + config.max_peers,
    )
    yield "news", len(membership.detector.gossiper.queue), UPDATES_LIMIT
    yield (
        "last calls",
        membership.detector.gossiper.pending_queries,
        SUSPICIONS_LIMIT + config.max_peers,
    )
    yield "errands", len(membership.detector.prober.indirect_probes), INDIRECT_PROBES_LIMIT
    yield "probes", len(membership.detector.prober.probes), config.max_peers
    yield "hints", len(membership.dialer._preferred), PREFERRED_LIMIT
    # As many of our own as were named or linked, and what others told of.
    yield "addresses", len(membership.dialer._targets), limits.addresses + 2 * config.max_peers
    yield "asked back", len(engine._overlay.antientropy._counter_requested_at), config.max_peers
    yield "held bytes", stats.cached_bytes, limits.cache_bytes + config.max_message_size
    yield "streams", stats.streams, 2 * limits.origins
    yield "ids to tell", len(lazy._unannounced), UNANNOUNCED_LIMIT
    yield "ids wanted", len(lazy._missing), MISSING_LIMIT
    yield "rumors to pull", len(engine._overlay.dissemination.puller._pulls), ANNOUNCED_LIMIT
    budgets = engine._overlay.signatures
    for each in (budgets._sender_limiter, budgets._pair_limiter, budgets._origin_limiter):
        yield "signature budgets", len(each._buckets), LIMITER_KEYS_LIMIT
    yield "traces", len(engine._overlay.tracing._traces), TRACES_LIMIT
    yield "routes", len(engine._overlay.tracing.reverse_paths._routes), ROUTES_LIMIT
    yield "receipts", len(engine._overlay.tracing.reverse_paths._batches), UNACKED_BATCHES_LIMIT
    yield "reassembly", links._reassembly_budget.used_bytes, limits.reassembly_bytes
    for link in links.values():
        yield "queued messages", link.queued, limits.queue_messages


def conversation(engine: Engine | None, peer_id: PeerId) -> tuple[float | None, int]:
    """Which one a node has with a peer: a new link begins another, and so does the peer's next life."""
    peer = None if engine is None else engine._overlay.peers.get(peer_id)
    return (None, 0) if peer is None else (peer.linked_at, peer.session_epoch)


def kept(engine: Engine) -> tuple[Table, ...]:
    """The tables in which a stranger must leave no trace."""
    named = ("sessions", "dials", "parting links", "accounts", "unconfirmed sessions", "peers")
    others = ("members", "addresses", "held bytes", "streams", "signature budgets")
    return tuple(table for table in tables(engine) if table[0] in (*named, *others))


def refusals(engine: Engine) -> int:
    """How often something was refused, under whatever reason."""
    return engine._transport.drops.total


def waiting(engine: Engine) -> int:
    """Datagrams that go out next."""
    return len(engine._transport.links._outbox)


def secret_of(engine: Engine) -> bytes:
    """The secret half of its identity."""
    return engine.snapshot(engine.deadline).seed


def printed(engine: Engine) -> str:
    """All that might come into a log or an error."""
    sessions = [link.session for link in engine._transport.links.values()]
    handshakes = engine._transport.handshakes
    dials, responder = list(handshakes._dials.values()), handshakes._responder
    parts = (engine, engine.config, engine._identity, responder, engine._overlay.membership)
    return repr((*parts, sessions, dials, engine.snapshot(engine.deadline)))


def seen(engine: Engine, now: float) -> tuple[int, bytes]:
    """What it says that it has seen; equal where nothing is to be repaired."""
    return engine._overlay.store.digest(now)


def next_id(engine: Engine, *, private: bool = False) -> MessageId:
    """What the next message of this node will be called."""
    voice = engine._publisher
    sequence = voice._direct_sequence if private else voice._sequence
    return MessageId(engine.peer_id, engine.epoch, sequence + 1, is_direct=private)


def linked(engine: Engine) -> tuple[PeerId, ...]:
    """Whom it may say something to."""
    return tuple(engine._transport.links)


def say_raw(sim: Simulation, node: SimulatedNode, peer_id: PeerId, plaintext: bytes) -> None:
    """Let a node seal and send any bytes at all."""
    if node.engine is not None:
        link = node.engine._transport.links[peer_id]
        node.engine._transport.links.enqueue(link, plaintext, node.read_clock(sim.now))
        sim._drive(node)


def forget_manners(engine: Engine, peer_id: PeerId) -> None:
    """Let a node send to a peer more than that one allows."""
    engine._transport.links[peer_id].send_limit = None


@contextmanager
def overheard(
    on_send: Callable[[Engine, Send], None],
    on_stranger: Callable[[Engine, bytes, Callable[[], None]], None],
    on_arrival: Callable[[Engine, bytes, Callable[[], None]], None],
    stranger: Address,
) -> Iterator[None]:
    """Let somebody hear what engines ask to be sent, and stand beside them when something comes, or a
    stranger."""
    send_all, receive = Engine._send, Engine.receive

    def send_overheard(engine: Engine, send: Send, now: float) -> int:
        on_send(engine, send)
        return send_all(engine, send, now)

    def receive_overheard(engine: Engine, datagram: bytes, source: Address, now: float) -> None:
        meet = on_stranger if source == stranger else on_arrival
        meet(engine, datagram, lambda: receive(engine, datagram, source, now))

    with (
        patch.object(Engine, "_send", send_overheard),
        patch.object(Engine, "receive", receive_overheard),
    ):
        yield
