"""Serves the node's metrics in Prometheus's text format over HTTP.

Invariants:

- The event loop only copies plain values (one snapshot per scrape, one sample of round-trip times
  per gossip interval). Formatting and sending run in threads, bounded in number and time.
- Counters only grow, base units are seconds and bytes, and a label value never changes its meaning.
- Labels are bounded: our own values, at most `max_peers` connected peers, and the first part of at most
  `MAX_TOPIC_LABELS` topics; members choose those, so further ones share `OTHER_TOPICS`.

Driven by `metrics_server`, in the loop of the node.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import logging
import socket
import threading
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Counter, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from grapevine_proto.errors import BindError, DropReason, Offense
from grapevine_proto.events import (
    AntiEntropyRound,
    Event,
    MemberInfo,
    MemberStatus,
    MessageReceived,
    MessageSent,
    PeerInfo,
    PeerState,
    RateLimited,
    RoundOutcome,
    Stats,
    UndeliveredReason,
    Via,
)
from grapevine_proto.ids import check_host, split_host_port
from grapevine_proto.runtime.discovery.runner import DiscoverySource
from grapevine_tui import __version__
from grapevine_tui.host.local import Host
from grapevine_tui.host.model import Changes
from grapevine_tui.text import printable

logger = logging.getLogger("grapevine.metrics")

SNAPSHOT_TIMEOUT_S: Final = 5.0  # for a busy event loop to answer; after that the scrape fails
MAX_CONNECTIONS: Final = 4  # at once
REQUEST_TIMEOUT_S: Final = 5.0  # for a whole request, from the connection to the last byte
ACCEPT_RETRY_INTERVAL_S: Final = (
    0.5  # while the system has no descriptor or memory for a connection
)
EXHAUSTION_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
RTT_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROUND_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MAX_TOPIC_LABELS: Final = 64
OTHER_TOPICS: Final = "(other)"  # no topic has parentheses

# name -> (field of Stats, help)
STATS_COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    "grapevine_datagrams_received": ("datagrams_in", "Datagrams received"),
    "grapevine_datagrams_sent": ("datagrams_out", "Datagrams sent"),
    "grapevine_received_bytes": ("bytes_in", "Bytes received in datagrams"),
    "grapevine_sent_bytes": ("bytes_out", "Bytes sent in datagrams"),
    "grapevine_slowed": ("slowed", "Times a peer was slowed for misconduct"),
    "grapevine_expelled": ("expelled", "Times a peer was disconnected for misconduct"),
    "grapevine_introduced": (
        "introduced",
        "Times this node introduced two peers, so that both dial through their NATs",
    ),
    "grapevine_relayed_datagrams": (
        "relayed_datagrams",
        "Datagrams passed on between two peers that cannot reach each other",
    ),
    "grapevine_relayed_bytes": ("relayed_bytes", "Bytes of those"),
    "grapevine_relay_refused": (
        "relay_refused",
        "Datagrams not passed on: beyond a limit, to a peer without a session, or relay is off",
    ),
    "grapevine_introductions_refused": (
        "introductions_refused",
        "Requests for introductions beyond the rate of a peer, or to a member without a link",
    ),
    "grapevine_port_mappings_granted": (
        "port_mappings_granted",
        "Times a router mapped a port to this node",
    ),
    "grapevine_port_mappings_refused": (
        "port_mappings_refused",
        "Times a router refused to, or none answered, for another reason than before",
    ),
    "grapevine_port_mappings_lost": (
        "port_mappings_lost",
        "Times a mapping ended while this node ran",
    ),
    "grapevine_entries_refused": (
        "entries_refused",
        "State entries of other members for which there was no room",
    ),
    "grapevine_entries_clock_ahead": (
        "entries_clock_ahead",
        "State entries with a clock too far above those of others to count",
    ),
    "grapevine_entry_conflicts": (
        "entry_conflicts",
        "Members that signed two state entries under one version",
    ),
    "grapevine_entries_adopted": (
        "entries_adopted",
        "Durable state entries taken over from members that are gone",
    ),
    "grapevine_events_lost": (
        "events_lost",
        "Events dropped because a reader in this process was too slow",
    ),
    "grapevine_callback_errors": (
        "callback_errors",
        "Exceptions raised by message handlers and event listeners in this process",
    ),
}
MESSAGE_OUTCOMES: Final = (
    *("delivered", "duplicates", "relayed", "repaired", "repair_requests", "announcements_dropped"),
    *(
        "unsubscribed",
        "expired",
        "unsupported",
        "skipped",
        "late",
        "gaps_abandoned",
        "cache_evictions",
        "send_drops",
        "unacked_untracked",
    ),
)
ANSWER_OUTCOMES: Final = ("relayed", "dropped", "lost")
STATS_GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "grapevine_unacknowledged_direct": (
        "unacknowledged_direct",
        "Direct messages of this node whose recipient has not acknowledged them yet",
    ),
    "grapevine_cached_messages": ("cached", "Messages cached for repair"),
    "grapevine_cached_bytes": ("cached_bytes", "Bytes of cached messages"),
    "grapevine_entries": ("entries", "State entries of all members"),
    "grapevine_streams": ("streams", "Tracked message streams (origin, epoch)"),
    "grapevine_sessions": ("sessions", "Encrypted sessions"),
    "grapevine_transient_sessions": (
        "transient_sessions",
        "Transient sessions: with members that are not peers",
    ),
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Values of a node at one instant, readable by any thread."""

    stats: Stats
    peers: tuple[PeerInfo, ...]
    discovery: tuple[DiscoverySource, ...]
    members: tuple[MemberInfo, ...]
    messages: Mapping[Via, int]
    topics: Mapping[str, int]
    rounds: Mapping[RoundOutcome, int]
    rate_limited: int
    now: float
    started_at: float
    lag_s: float
    unacknowledged: int
    pending_restart: int
    identity: Mapping[str, str]
    hook_outcomes: Mapping[str, int]
    alerts: Mapping[str, int]
    """How often each alert fires."""


class Metrics:
    """Counts what only events report and copies the rest. Everything but `registry` belongs to the
    event loop.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._messages: Tally[Via] = Tally()
        self._topics: Tally[str] = Tally()  # by first part
        self._rounds: Tally[RoundOutcome] = Tally()
        self._rate_limited = 0
        self.registry = CollectorRegistry()
        self._rtts = Histogram(
            "grapevine_peer_rtt_seconds",
            "Round-trip times of peers, sampled once per gossip interval",
            buckets=RTT_BUCKETS_S,
            registry=self.registry,
        )
        self.connections_dropped = Counter(
            "grapevine_metrics_connections_dropped",
            "Connections to the metrics port closed before a response",
            registry=self.registry,
        )
        self._round_durations = Histogram(
            "grapevine_round_duration_seconds",
            "Duration of anti-entropy rounds started by this node",
            buckets=ROUND_BUCKETS_S,
            registry=self.registry,
        )

    def on_event(self, event: Event, _: Changes) -> None:
        match event:
            case MessageReceived(message) | MessageSent(message):
                self._messages[message.via] += 1
                if message.topic:
                    self._count_topic(message.topic.partition(".")[0])
            case AntiEntropyRound(info):
                self._rounds[info.outcome] += 1
                self._round_durations.observe(info.duration_s)
            case RateLimited(_, dropped):
                self._rate_limited += dropped
            case _:
                pass

    def _count_topic(self, part: str) -> None:
        has_label = part in self._topics or len(self._topics) < MAX_TOPIC_LABELS
        self._topics[part if has_label else OTHER_TOPICS] += 1

    def observe_rtts(self) -> None:
        """Sample the round-trip times of connected peers."""
        for peer in self._host.node.peers():
            if peer.state.is_connected and peer.rtt_s is not None:
                self._rtts.observe(peer.rtt_s)

    def snapshot(self) -> Snapshot:
        host, node = self._host, self._host.node
        return Snapshot(
            stats=node.stats(),
            peers=tuple(node.peers()),
            discovery=tuple(node.discovery_sources()),
            members=tuple(node.members()),
            messages=dict(self._messages),
            topics=dict(self._topics),
            rounds=dict(self._rounds),
            rate_limited=self._rate_limited,
            now=node.now(),
            started_at=host.started_at,
            lag_s=node.lag_s,
            unacknowledged=host.unacknowledged,
            hook_outcomes=dict(host.hook_outcomes),
            alerts=host.alert_book.firing_counts(),
            pending_restart=len(host.pending_restart),
            identity={
                "peer_id": str(node.peer_id),
                "name": printable(host.config.name),
                "zone": printable(host.config.zone),
                "cluster": printable(host.config.cluster),
                "version": __version__,
            },
        )


class NodeCollector(Collector):
    """Turns snapshots into metric families. `take_snapshot` is called in a thread of the server."""

    def __init__(self, take_snapshot: Callable[[], Snapshot]) -> None:
        self._take_snapshot = take_snapshot

    def describe(self) -> list[Metric]:
        return []  # otherwise the registry would take a snapshot just to learn the names

    def collect(self) -> Iterator[Metric]:
        snapshot = self._take_snapshot()
        yield from _node_metrics(snapshot)
        yield from _message_metrics(snapshot)
        yield from _cluster_metrics(snapshot)
        yield from _peer_metrics([peer for peer in snapshot.peers if peer.state.is_connected])


def _node_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    yield InfoMetricFamily("grapevine_node", "Identity of this node", value=dict(snapshot.identity))
    up = max(0.0, snapshot.now - snapshot.started_at)
    yield GaugeMetricFamily("grapevine_uptime_seconds", "Time since the node started", value=up)
    lag = "Largest delay of the event loop in the last seconds"
    yield GaugeMetricFamily("grapevine_loop_lag_seconds", lag, value=snapshot.lag_s)
    help_text = "Changed settings that take effect after a restart"
    yield GaugeMetricFamily(
        "grapevine_settings_pending_restart", help_text, value=snapshot.pending_restart
    )
    for name, (field, help_text) in STATS_COUNTERS.items():
        yield CounterMetricFamily(name, help_text, value=getattr(snapshot.stats, field))
    for name, (field, help_text) in STATS_GAUGES.items():
        yield GaugeMetricFamily(name, help_text, value=getattr(snapshot.stats, field))
    dropped = CounterMetricFamily(
        "grapevine_dropped",
        "Datagrams and messages dropped on receive, by reason",
        labels=["reason"],
    )
    drop_counts = _drop_counts(snapshot.stats)
    for reason in (
        DropReason
    ):  # all reasons from the first scrape on: a series that starts at 1 shows no increase
        dropped.add_metric([reason.value], drop_counts[reason.value])
    yield dropped
    hook_runs = CounterMetricFamily(
        "grapevine_hook_runs", "Runs of --on programs, by outcome", labels=["outcome"]
    )
    for outcome in ("run", "failed", "timed_out", "skipped"):
        hook_runs.add_metric([outcome], snapshot.hook_outcomes.get(outcome, 0))
    yield hook_runs
    help_text = "Alerts that fire, by name; one about peers counts each of them"
    alerts = GaugeMetricFamily("grapevine_alerts_firing", help_text, labels=["alert"])
    for alert_name, count in snapshot.alerts.items():
        alerts.add_metric([alert_name], count)
    yield alerts
    offenses = CounterMetricFamily(
        "grapevine_offenses", "Misconduct of peers, by offense", labels=["offense"]
    )
    counts = dict(snapshot.stats.offenses)
    for offense in Offense:
        offenses.add_metric([offense.value], counts.get(offense, 0))
    yield offenses
    undelivered = CounterMetricFamily(
        "grapevine_undelivered",
        "Direct messages of this node that are not known to have arrived, by reason",
        labels=["reason"],
    )
    undelivered_counts = dict(snapshot.stats.undelivered)
    for undelivered_reason in UndeliveredReason:
        count = undelivered_counts.get(undelivered_reason, 0)
        undelivered.add_metric([undelivered_reason.value], count)
    yield undelivered


def _drop_counts(stats: Stats) -> Tally[str]:
    """Sum counts by reason; several counters may share one."""
    sums: Tally[str] = Tally()
    for reason, count in stats.dropped:
        sums[reason.value] += count
    return sums


def _message_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    help_text = "Messages delivered to the application, by delivery path (local: sent by this node)"
    by_via = CounterMetricFamily("grapevine_messages", help_text, labels=["via"])
    for via in Via:
        by_via.add_metric([via.value], snapshot.messages.get(via, 0))
    yield by_via
    help_text = f"Messages with a topic, by its first part; {OTHER_TOPICS} beyond {MAX_TOPIC_LABELS} of them"
    by_topic = CounterMetricFamily("grapevine_topic_messages", help_text, labels=["topic"])
    for part, count in snapshot.topics.items():
        by_topic.add_metric([part], count)
    yield by_topic
    help_text = f"Messages by outcome: {', '.join(MESSAGE_OUTCOMES)}"
    by_outcome = CounterMetricFamily("grapevine_message_outcomes", help_text, labels=["outcome"])
    for outcome in MESSAGE_OUTCOMES:
        by_outcome.add_metric([outcome], getattr(snapshot.stats, outcome))
    yield by_outcome
    help_text = f"Answers to queries of other nodes, by outcome: {', '.join(ANSWER_OUTCOMES)}"
    by_outcome = CounterMetricFamily("grapevine_answer_outcomes", help_text, labels=["outcome"])
    for outcome in ANSWER_OUTCOMES:
        by_outcome.add_metric([outcome], getattr(snapshot.stats, f"answers_{outcome}"))
    yield by_outcome
    help_text = "Own broadcasts that no peer has acknowledged yet"
    yield GaugeMetricFamily(
        "grapevine_unacknowledged_broadcasts", help_text, value=snapshot.unacknowledged
    )


def _cluster_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    states = Tally(peer.state for peer in snapshot.peers)
    peers = GaugeMetricFamily("grapevine_peers", "Peers, by state", labels=["state"])
    for state in PeerState:
        peers.add_metric([state.value], states[state])
    yield peers
    discovered = GaugeMetricFamily(
        "grapevine_discovered_addresses",
        "Addresses that sources of discovery name, by source",
        labels=["source"],
    )
    for source in snapshot.discovery:
        discovered.add_metric([source.name], len(source.addresses))
    yield discovered
    statuses = Tally(member.status for member in snapshot.members)
    members = GaugeMetricFamily("grapevine_members", "Known members, by status", labels=["status"])
    for status in MemberStatus:
        members.add_metric([status.value], statuses[status])
    yield members
    rounds = CounterMetricFamily(
        "grapevine_rounds",
        "Anti-entropy rounds started by this node, by outcome",
        labels=["outcome"],
    )
    for outcome in RoundOutcome:
        if outcome is not RoundOutcome.RUNNING:
            rounds.add_metric([outcome.value], snapshot.rounds.get(outcome, 0))
    yield rounds
    help_text = "Messages dropped because a peer exceeded its rate limit"
    yield CounterMetricFamily("grapevine_rate_limited", help_text, value=snapshot.rate_limited)


def _peer_metrics(connected: list[PeerInfo]) -> Iterator[Metric]:
    def gauge(name: str, help_text: str, value: Callable[[PeerInfo], float | None]) -> Metric:
        family = GaugeMetricFamily(f"grapevine_peer_{name}", help_text, labels=["peer_id"])
        for peer in connected:
            if (number := value(peer)) is not None:
                family.add_metric([str(peer.peer_id)], number)
        return family

    def counter(name: str, help_text: str, value: Callable[[PeerInfo], int]) -> Metric:
        family = CounterMetricFamily(f"grapevine_peer_{name}", help_text, labels=["peer_id"])
        for peer in connected:
            family.add_metric([str(peer.peer_id)], value(peer))
        return family

    info = InfoMetricFamily("grapevine_peer", "Connected peers", labels=["peer_id"])
    for peer in connected:
        path = "" if peer.path is None else peer.path.value
        labels = {
            "name": peer.name,
            "zone": peer.zone,
            "address": str(peer.address),
            "path": path,
        }
        info.add_metric([str(peer.peer_id)], {key: printable(each) for key, each in labels.items()})
    yield info
    yield gauge("tokens", "Rate-limit tokens left for the peer", lambda peer: peer.tokens)
    yield gauge("queued_messages", "Messages queued for the peer", lambda peer: peer.queued)
    yield gauge("health_ratio", "Peer health, from 0 (unreachable) to 1", lambda peer: peer.health)
    yield gauge("last_rtt_seconds", "Last measured round-trip time", lambda peer: peer.rtt_s)
    help_text = "Send rate that congestion control allows to the peer"
    yield gauge("send_rate_bytes_per_second", help_text, lambda peer: peer.send_rate)
    yield counter("sent_datagrams", "Datagrams sent to the peer", lambda p: p.sent)
    yield counter("received_datagrams", "Datagrams received from the peer", lambda p: p.received)
    help_text = "Datagrams to the peer declared lost"
    yield counter("lost_datagrams", help_text, lambda peer: peer.lost)


# --- the server -----------------------------------------------------------------------------------


class _RequestHandler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: _MetricsServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  name of the base class
        logger.debug("%s", printable(format % args))

    def address_string(self) -> str:
        return str(self.client_address[0])  # without a DNS lookup

    def parse_request(self) -> bool:
        is_valid = super().parse_request()
        if is_valid:
            self.server.on_request(self.request)
        return is_valid


class _MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves at most `MAX_CONNECTIONS` at once.

    A further connection closes the oldest one without a request. Each is closed after
    `REQUEST_TIMEOUT_S`, whatever it sends or reads meanwhile.
    """

    daemon_threads = True

    def __init__(self, address: Any, family: socket.AddressFamily, dropped: Counter) -> None:
        self.address_family = family
        self._drop_counter = dropped
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}  # oldest first
        self._idle: set[socket.socket] = set()
        self._is_exhausted = False
        super().__init__(address, _RequestHandler)

    def server_bind(self) -> None:
        # The base method would look up the host name in DNS.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. If no descriptor is free, it stays queued and the server pauses,
        because it would be woken again at once.
        """
        try:
            accepted = super().get_request()
        except OSError as error:
            if error.errno in EXHAUSTION_ERRNOS:
                if not self._is_exhausted:
                    logger.warning("metrics cannot be served for now: %s", error.strerror)
                self._is_exhausted = True
                time.sleep(ACCEPT_RETRY_INTERVAL_S)
            raise
        self._is_exhausted = False
        return accepted

    def on_request(self, request: socket.socket) -> None:
        """Note that `request` was received: its connection is answered and not evicted."""
        with self._lock:
            self._idle.discard(request)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            is_full = len(self._deadlines) >= MAX_CONNECTIONS
            oldest_idle = next((each for each in self._deadlines if each in self._idle), None)
            if is_full and oldest_idle is not None:
                self._drop_connection(oldest_idle)
            is_accepted = not is_full or oldest_idle is not None
            if is_accepted:
                self._deadlines[request] = time.monotonic() + REQUEST_TIMEOUT_S
                self._idle.add(request)
        if is_accepted:
            super().process_request(request, client_address)
        else:
            self._drop_counter.inc()
            self.shutdown_request(request)

    def service_actions(self) -> None:
        now = time.monotonic()
        with self._lock:
            for request in [each for each, end in self._deadlines.items() if end <= now]:
                self._drop_connection(request)

    def _drop_connection(self, request: socket.socket) -> None:
        """Shut down `request`, so that its thread reads the end and closes it."""
        self._untrack(request)
        self._drop_counter.inc()
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def _untrack(self, request: socket.socket) -> None:
        self._deadlines.pop(request, None)
        self._idle.discard(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._untrack(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a scrape failed", exc_info=True)


def _bind_server(listen_address: str, dropped: Counter) -> _MetricsServer:
    """Bind the server. Raises BindError."""
    try:
        host, port = split_host_port(listen_address)
        check_host(host)
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _MetricsServer(address, family, dropped)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BindError(f"metrics at {listen_address[:80]}: {reason}") from None


@contextlib.asynccontextmanager
async def metrics_server(host: Host, listen_address: str) -> AsyncIterator[int]:
    """Serve the metrics of `host` at `listen_address`, ``host:port``, within this context; yield
    the port. Enter before the host starts. Raises BindError.
    """
    loop = asyncio.get_running_loop()
    metrics = Metrics(host)
    server = _bind_server(listen_address, metrics.connections_dropped)

    def take_snapshot() -> Snapshot:
        future: concurrent.futures.Future[Snapshot] = concurrent.futures.Future()

        def copy() -> None:
            try:
                future.set_result(metrics.snapshot())
            except Exception as error:  # noqa: BLE001  raised in the thread that asked
                future.set_exception(error)

        loop.call_soon_threadsafe(copy)
        return future.result(SNAPSHOT_TIMEOUT_S)

    async def observe_loop() -> None:
        await host.started.wait()
        while True:
            metrics.observe_rtts()
            await asyncio.sleep(host.config.gossip_interval)

    metrics.registry.register(NodeCollector(take_snapshot))
    host.listen(metrics.on_event)
    server.set_app(make_wsgi_app(metrics.registry))
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    observe_task = asyncio.create_task(observe_loop())
    try:
        yield int(server.server_address[1])
    finally:
        observe_task.cancel()
        server.socket.close()  # a scrape in progress ends by itself
        threading.Thread(target=server.shutdown, daemon=True).start()
