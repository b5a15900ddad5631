"""Access to the internals of a node.

Invariants:

- This is the only file of the swarm that uses private names of a node, so that a change to one has
  a single place to follow it.
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
from grapevine_proto.overlay.query.queries import ANSWER_BYTES_HELD_LIMIT, QUERIES_LIMIT
from grapevine_proto.overlay.query.queries import UNACKED_BATCHES_LIMIT as ANSWER_BATCHES_LIMIT
from grapevine_proto.overlay.query.questions import LARGE_BYTES_LIMIT, QUESTIONS_LIMIT
from grapevine_proto.overlay.reverse_paths import ROUTES_LIMIT
from grapevine_proto.overlay.state.early_entries import EARLY_OWNERS_LIMIT
from grapevine_proto.overlay.state.state_sync import WANTED_LIMIT
from grapevine_proto.overlay.swim.indirect_probes import INDIRECT_PROBES_LIMIT
from grapevine_proto.overlay.swim.suspicion_table import SUSPICIONS_LIMIT
from grapevine_proto.overlay.topology.dialer import PREFERRED_LIMIT
from grapevine_proto.overlay.trace.trace import TRACES_LIMIT, UNACKED_BATCHES_LIMIT
from grapevine_proto.overlay.transmit_queue import UPDATES_LIMIT
from grapevine_proto.overlay.verification import LIMITER_KEYS_LIMIT
from grapevine_proto.sim import SimulatedNode, Simulation
from grapevine_proto.transport.handshake.responder import UNCONFIRMED_SESSIONS_LIMIT
from grapevine_proto.transport.link_table import CLOSED_SESSIONS_LIMIT
from grapevine_proto.transport.peer_limits import TRACKED_PEERS_LIMIT

Table = tuple[str, int, int]  # name, size, limit


def tables(engine: Engine) -> Iterator[Table]:
    """Every table that grows with the behavior of others."""
    config, stats = engine.config, engine.stats()
    limits, membership, lazy_push = (
        config.limits,
        engine._overlay.membership,
        engine._overlay.dissemination.lazy_push,
    )
    links, handshakes = engine._transport.links, engine._transport.handshakes
    yield "links", len(links), config.max_peers
    yield "sessions", stats.sessions, limits.sessions
    yield "dials", len(handshakes), limits.dials
    yield "closed links", len(links._closed), CLOSED_SESSIONS_LIMIT
    yield "peer limits", len(links.peer_limits), TRACKED_PEERS_LIMIT
    yield "unconfirmed sessions", handshakes._responder.pending, UNCONFIRMED_SESSIONS_LIMIT
    yield "peers", len(list(engine._overlay.peers)), limits.sessions + config.max_peers
    yield "transient sessions", len(engine._transport.transients), limits.transient_sessions
    # linked members always have an entry
    yield "members", stats.members, limits.members + config.max_peers
    yield (
        "suspicions",
        len(membership.detector.suspicions._suspicions),
        SUSPICIONS_LIMIT + config.max_peers,
    )
    yield "updates", len(membership.detector.gossiper.queue), UPDATES_LIMIT
    yield (
        "final queries",
        membership.detector.gossiper.pending_queries,
        SUSPICIONS_LIMIT + config.max_peers,
    )
    yield "indirect probes", len(membership.detector.prober.indirect_probes), INDIRECT_PROBES_LIMIT
    yield "probes", len(membership.detector.prober.probes), config.max_peers
    yield "preferred", len(membership.dialer._preferred), PREFERRED_LIMIT
    # our own, by bootstrap or link, plus those reported by others
    yield "addresses", len(membership.dialer._targets), limits.addresses + 2 * config.max_peers
    yield (
        "counter-requests",
        len(engine._overlay.antientropy._counter_requested_at),
        config.max_peers,
    )
    yield "cached bytes", stats.cached_bytes, limits.cache_bytes + config.max_message_size
    yield "streams", stats.streams, 2 * limits.origins
    yield "ids to announce", len(lazy_push._unannounced), UNANNOUNCED_LIMIT
    mail = len(lazy_push._unannounced_mail) + len(lazy_push._unsorted_mail)
    yield "mail to announce", mail, UNANNOUNCED_LIMIT
    yield "missing ids", len(lazy_push._missing), MISSING_LIMIT
    yield "rumors to pull", len(engine._overlay.dissemination.puller._pulls), ANNOUNCED_LIMIT
    verifier = engine._overlay.verifier
    for each in (verifier._sender_limiter, verifier._pair_limiter, verifier._origin_limiter):
        yield "signature budgets", len(each._buckets), LIMITER_KEYS_LIMIT
    yield "traces", len(engine._overlay.tracing._traces), TRACES_LIMIT
    yield "routes", len(engine._overlay.tracing.reverse_paths._routes), ROUTES_LIMIT
    yield "receipts", len(engine._overlay.tracing.reverse_paths._batches), UNACKED_BATCHES_LIMIT
    queries = engine._overlay.queries
    yield "query routes", len(queries.reverse_paths._routes), ROUTES_LIMIT
    yield "answers", len(queries.reverse_paths._batches), ANSWER_BATCHES_LIMIT
    yield "answer bytes", queries.reverse_paths._bytes_held, ANSWER_BYTES_HELD_LIMIT
    yield "queries", len(queries._open), QUERIES_LIMIT
    yield "questions", len(queries._questions._questions), QUESTIONS_LIMIT
    yield "large answers", queries._questions._large_bytes, LARGE_BYTES_LIMIT
    state, state_sync = engine._overlay.state, engine._overlay.state_sync
    yield "maps", len(state.maps), limits.state_owners
    yield "early entries", len(state.early), EARLY_OWNERS_LIMIT
    yield "wanted maps", len(state_sync._wanted), WANTED_LIMIT
    yield "peers to compare with", len(state_sync._peers), config.max_peers
    yield "reassembly", links._reassembly_budget.used_bytes, limits.reassembly_bytes
    for link in links.values():
        yield "queued messages", link.queued, limits.queue_messages


def link_identity(engine: Engine | None, peer_id: PeerId) -> tuple[float | None, int]:
    """Identifies a link with a peer: it changes with a new link and with a restart of the peer."""
    peer = None if engine is None else engine._overlay.peers.get(peer_id)
    return (None, 0) if peer is None else (peer.linked_at, peer.session_epoch)


def is_linked(engine: Engine, peer_id: PeerId) -> bool:
    """Whether a node has a link with a peer."""
    return engine._overlay.peers.is_linked(peer_id)


def address_of(engine: Engine | None, peer_id: PeerId) -> Address | None:
    """Where a node reaches a peer."""
    peer = None if engine is None else engine._overlay.peers.get(peer_id)
    return None if peer is None else peer.address


def protected_tables(engine: Engine) -> tuple[Table, ...]:
    """The tables that an unauthenticated peer must not change."""
    named = ("sessions", "dials", "closed links", "peer limits", "unconfirmed sessions", "peers")
    others = ("members", "addresses", "cached bytes", "streams", "signature budgets")
    return tuple(table for table in tables(engine) if table[0] in (*named, *others))


def drop_count(engine: Engine) -> int:
    """Total number of drops, for any reason."""
    return engine._transport.drops.total


def outbox_size(engine: Engine) -> int:
    """Number of datagrams in the outbox."""
    return len(engine._transport.links._outbox)


def secret_of(engine: Engine) -> bytes:
    """The private half of its identity."""
    return engine.snapshot(engine.deadline).seed


def printed_state(engine: Engine) -> str:
    """Everything that might appear in a log or an error."""
    sessions = [link.session for link in engine._transport.links.values()]
    handshakes = engine._transport.handshakes
    dials, responder = list(handshakes._dials.values()), handshakes._responder
    parts = (engine, engine.config, engine._identity, responder, engine._overlay.membership)
    return repr((*parts, sessions, dials, engine.snapshot(engine.deadline)))


def store_digest(engine: Engine, now: float) -> tuple[int, bytes]:
    """The digest of its store; equal digests mean that nothing is to be repaired."""
    return engine._overlay.store.digest(now)


def entries_sum(engine: Engine) -> int:
    """The sum of all maps of entries; equal sums mean that all copies agree."""
    return engine._overlay.state.sum


def next_id(engine: Engine, *, is_direct: bool = False) -> MessageId:
    """The ID of the next message of this node."""
    publisher = engine._publisher
    sequence = publisher._direct_sequence if is_direct else publisher._sequence
    return MessageId(engine.peer_id, engine.epoch, sequence + 1, is_direct=is_direct)


def linked(engine: Engine) -> tuple[PeerId, ...]:
    """The peers it has links with."""
    return tuple(engine._transport.links)


def send_raw(sim: Simulation, node: SimulatedNode, peer_id: PeerId, plaintext: bytes) -> None:
    """Have a node seal and send arbitrary bytes."""
    if node.engine is not None:
        link = node.engine._transport.links[peer_id]
        node.engine._transport.links.enqueue(link, plaintext, node.read_clock(sim.now))
        sim._drive(node)


def ignore_limit(engine: Engine, peer_id: PeerId) -> None:
    """Remove the limit of a peer, so that the node exceeds it."""
    engine._transport.links[peer_id].send_limit = None


@contextmanager
def intercept(
    on_send: Callable[[Engine, Send], None],
    on_unauthenticated: Callable[[Engine, bytes, Callable[[], None]], None],
    on_arrival: Callable[[Engine, bytes, Callable[[], None]], None],
    unauthenticated: Address,
) -> Iterator[None]:
    """Intercept the sends of all engines, and datagrams received from nodes and from
    unauthenticated peers.
    """
    send_all, receive = Engine._send, Engine.receive

    def send_intercepted(engine: Engine, send: Send, now: float) -> int:
        on_send(engine, send)
        return send_all(engine, send, now)

    def receive_intercepted(engine: Engine, datagram: bytes, source: Address, now: float) -> None:
        callback = on_unauthenticated if source == unauthenticated else on_arrival
        callback(engine, datagram, lambda: receive(engine, datagram, source, now))

    with (
        patch.object(Engine, "_send", send_intercepted),
        patch.object(Engine, "receive", receive_intercepted),
    ):
        yield
