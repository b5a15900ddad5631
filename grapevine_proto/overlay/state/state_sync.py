"""Reconciliation of keyed state with peers, for entries that broadcast missed.

    we -> StateDigest                 the sum of all heads, once per gossip interval in which it changed
    peer -> StateDigest (buckets)     a while later, if its sum still differs: the sums of its buckets
    we -> StateHeads                  our heads in the buckets that differ
    peer -> StateRequest              what the peer lacks of those
    we -> StateDelta ...              whole maps, or all that is newer
    peer -> StateHeads (reply)        its heads that are newer than ours, which we request likewise

Invariants:

- Peers with equal sums exchange nothing; nodes without entries send nothing.
- Entries are authenticated by their signatures, and a map is applied only in a version that its owner had
  (`owner_map`). So a peer that withholds entries, or sends old ones, can only cause delay.
- Only sums are sent unrequested. The requester sets the pace: one request per peer, and each owner
  from one peer at a time.
- A difference that a comparison does not resolve, such as the map of an owner that one of the peers has
  removed, is not compared again until something changes, or `FRUITLESS_PAUSE_S` have passed.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final, TypeAlias, assert_never

from grapevine_proto import work
from grapevine_proto.errors import DropReason, Offense
from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import CountDrop, Effect, Penalize, Send
from grapevine_proto.overlay.state.keyed_state import KeyedState
from grapevine_proto.overlay.state.owner_map import MAX_ENTRIES, Entry, OwnerMap
from grapevine_proto.timers import TimerQueue
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.wire.entry_terms import MAP_DIGEST_BYTES, NO_VERSION, Version
from grapevine_proto.wire.messages import (
    BUCKET_SUM_BYTES,
    HEAD_DIGEST_BYTES,
    OWNER_PREFIX_BYTES,
    STATE_BUCKETS,
    STATE_SUM_BYTES,
    RumorCopy,
    StateDelta,
    StateDigest,
    StateHead,
    StateHeads,
    StateRequest,
    StateWant,
)

RECHECK_S: Final = 1.0  # a sum that still differs is not just entries in transit; up to twice this
NEW_LINK_RECHECK_S: Final = 0.2  # the same for a new link; up to this
RECENT_SUMS_LIMIT: Final = 64  # a peer whose sum was ours lately is only behind
RECENT_SUM_S: Final = 10.0
RETRY_S: Final = 30.0  # for a sum that the peer has not answered with the same one
REPEAT_AFTER_S: Final = 15.0  # before our sum is repeated to a peer that repeats its own
RETRIES_LIMIT: Final = 5  # doublings of that: a node of an older version never answers
FRUITLESS_PAUSE_S: Final = 300.0
HEADS_TIMEOUT_S: Final = 5.0
HEADS_PER_REPLY_LIMIT: Final = 2048
HEADS_PER_MESSAGE: Final = 512
HEADS_BURST: Final = 8.0  # replies with heads, per peer
HEADS_PER_S: Final = 1.0
WANTS_PER_REQUEST: Final = 24  # fits a datagram
WANTED_LIMIT: Final = 10_000
SOURCES_LIMIT: Final = 4  # peers that are known to have what is wanted
REQUEST_TIMEOUT_S: Final = 3.0  # without a part of the reply
REQUEST_LIMIT_S: Final = 30.0
FAILURES_LIMIT: Final = 2  # replies of one peer that lead nowhere, for one owner
DELTA_BYTES: Final = 24 * 1024  # per message: costs one token
COPIES_PER_DELTA: Final = 48
REPLY_BYTES: Final = 64 * 1024  # per request, or one map
DELTA_BYTES_BURST: Final = 8 << 20  # per peer
DELTA_BYTES_PER_S: Final = 1 << 20
GAP_WAIT_S: Final = 0.3  # for an entry that was overtaken on another path

StateMessage: TypeAlias = StateDigest | StateHeads | StateRequest | StateDelta


class _Request:
    """A request in progress with one peer."""

    __slots__ = ("expires_at", "number", "prefixes", "staged", "started_at")

    def __init__(self, number: int, prefixes: Iterable[bytes], now: float) -> None:
        self.number = number
        self.prefixes = frozenset(prefixes)
        self.staged: dict[PeerId, dict[Version, Entry]] = {}  # by owner
        self.started_at = now
        self.expires_at = now + REQUEST_TIMEOUT_S

    def on_progress(self, now: float) -> None:
        self.expires_at = min(now + REQUEST_TIMEOUT_S, self.started_at + REQUEST_LIMIT_S)


class _PeerSync:
    """What this node and one peer know of each other's sums, and the request in progress."""

    __slots__ = (
        "awaits_heads_until",
        "awaits_reply_until",
        "bytes_bucket",
        "fruitless",
        "fruitless_until",
        "heads_bucket",
        "is_new",
        "recheck_at",
        "request",
        "retries",
        "retry_at",
        "sent_at",
        "sent_sum",
        "their_sum",
    )

    def __init__(self, now: float) -> None:
        self.sent_sum = 0
        self.sent_at = -math.inf
        self.their_sum = 0  # a node without entries sends none
        self.is_new = True  # it has sent no sum yet
        self.retry_at = math.inf
        self.retries = 0
        self.recheck_at = math.inf
        self.awaits_heads_until = -math.inf
        self.awaits_reply_until = -math.inf
        self.fruitless: tuple[int, int] | None = None  # sums whose comparison brought nothing
        self.fruitless_until = -math.inf
        self.request: _Request | None = None
        self.heads_bucket = TokenBucket(HEADS_BURST, HEADS_PER_S, now)
        self.bytes_bucket = TokenBucket(DELTA_BYTES_BURST, DELTA_BYTES_PER_S, now)

    @property
    def deadline(self) -> float:
        expires_at = math.inf if self.request is None else self.request.expires_at
        return min(self.recheck_at, self.retry_at, expires_at)


class _Wanted:
    """A version of a map that peers have and this node lacks."""

    __slots__ = ("failures", "is_assigned", "is_reset", "sources", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.sources: dict[PeerId, None] = {}
        self.is_assigned = False  # to the request of a peer
        self.is_reset = False  # the difference alone led nowhere
        self.failures = 0


class StateSync:
    """The state machine of reconciliation, driven by links, its messages and its deadline."""

    def __init__(self, context: OverlayContext, state: KeyedState) -> None:
        self._config = context.config
        self._our_id = context.our_id
        self._rng = context.rng
        self._work = context.work
        self._state = state
        self._peers: dict[PeerId, _PeerSync] = {}  # with a link
        self._timers: TimerQueue[PeerId] = TimerQueue()
        self._wanted: OrderedDict[bytes, _Wanted] = OrderedDict()  # by owner
        self._wanted_limit = WANTED_LIMIT
        self._recent_sums: deque[tuple[float, int]] = deque(maxlen=RECENT_SUMS_LIMIT)
        self._noticed_sum = state.sum
        self._announce_at = math.inf
        self._last_number = 0

    # --- links ----------------------------------------------------------------------------------

    def on_link_up(self, peer_id: PeerId, now: float) -> None:
        """A link is up, or its peer restarted: sends our sum at once."""
        self.on_link_down(peer_id)
        peer = self._peers[peer_id] = _PeerSync(now)
        if self._state.sum:
            peer.retry_at = now
            self._timers.schedule(peer_id, now)
        self._state.on_link_up(now)

    def on_link_down(self, peer_id: PeerId) -> None:
        """A link closed: the peer is no source, and owners requested from it can be requested from
        others."""
        peer = self._peers.pop(peer_id, None)
        self._timers.cancel(peer_id)
        if peer is not None and peer.request is not None:
            self._release(peer.request)
        for prefix, wanted in list(self._wanted.items()):
            self._remove_source(prefix, wanted, peer_id)

    def _release(self, request: _Request) -> None:
        for prefix in request.prefixes:
            if prefix in self._wanted:
                self._wanted[prefix].is_assigned = False

    def _remove_source(self, prefix: bytes, wanted: _Wanted, peer_id: PeerId) -> None:
        wanted.sources.pop(peer_id, None)
        if not wanted.sources:
            del self._wanted[prefix]

    # --- messages -------------------------------------------------------------------------------

    def handle(self, message: StateMessage, sender: PeerId, now: float) -> list[Effect]:
        peer = self._peers.get(sender)
        if peer is None:
            return []
        match message:
            case StateDigest():
                effects = self._on_digest(message, peer, sender, now)
            case StateHeads():
                effects = self._on_heads(message, peer, sender, now)
            case StateRequest():
                effects = self._on_request(message, peer, sender, now)
            case StateDelta():
                effects = self._on_delta(message, peer, sender, now)
            case _:
                assert_never(message)
        self._timers.schedule(sender, peer.deadline)
        return effects

    def _on_digest(
        self, message: StateDigest, peer: _PeerSync, sender: PeerId, now: float
    ) -> list[Effect]:
        total = self._state.sum
        theirs = int.from_bytes(message.sum, "big")
        was_new, peer.is_new = peer.is_new, False
        is_repeated = theirs == peer.their_sum
        peer.their_sum, peer.retries = theirs, 0
        if theirs == total:
            peer.recheck_at = peer.retry_at = math.inf
            # It repeats its sum because it does not know ours. Soon after ours, both are on their way.
            if is_repeated and peer.sent_sum == total and now >= peer.sent_at + REPEAT_AFTER_S:
                return self._send_sum(peer, sender, now)
            return []
        if message.buckets:
            return self._send_heads(message.buckets, peer, sender, now)
        if peer.recheck_at == math.inf:
            delay_s = (
                NEW_LINK_RECHECK_S * self._rng.random()
                if was_new
                else RECHECK_S * (1 + self._rng.random())
            )
            peer.recheck_at = now + delay_s
        return []

    def _send_sum(
        self, peer: _PeerSync, peer_id: PeerId, now: float, buckets: bytes = b""
    ) -> list[Effect]:
        peer.sent_sum, peer.sent_at = self._state.sum, now
        total = peer.sent_sum.to_bytes(STATE_SUM_BYTES, "big")
        return [Send((peer_id,), StateDigest(total, buckets))]

    def _recheck(self, peer: _PeerSync, peer_id: PeerId, now: float) -> list[Effect]:
        """Compares sums that differed before: sends the sums of our buckets unless they are equal now."""
        peer.recheck_at = math.inf
        total, theirs = self._state.sum, peer.their_sum
        if theirs == total or self._was_ours(theirs, now):
            return []
        if peer.fruitless == (total, theirs) and now < peer.fruitless_until:
            return []
        peer.fruitless, peer.fruitless_until = (total, theirs), now + HEADS_TIMEOUT_S
        peer.awaits_heads_until = now + HEADS_TIMEOUT_S
        return self._send_sum(peer, peer_id, now, self._bucket_sums())

    def _was_ours(self, total: int, now: float) -> bool:
        """Whether this was our own sum recently, so that the peer is only behind."""
        return any(each == total and now - at < RECENT_SUM_S for at, each in self._recent_sums)

    def _bucket_sums(self) -> bytes:
        modulus = 1 << 8 * BUCKET_SUM_BYTES
        return b"".join(
            (each % modulus).to_bytes(BUCKET_SUM_BYTES, "big") for each in self._state.bucket_sums
        )

    def _send_heads(
        self, theirs: bytes, peer: _PeerSync, sender: PeerId, now: float
    ) -> list[Effect]:
        """Replies with our heads in the buckets that differ, as many as fit."""
        if not peer.heads_bucket.try_take(now):
            return [
                CountDrop(sender, DropReason.RATE_LIMITED),
                Penalize(sender, Offense.REPEATED_REQUEST),
            ]
        ours = self._bucket_sums()
        by_bucket: dict[int, list[OwnerMap]] = {}
        for start in range(0, len(ours), BUCKET_SUM_BYTES):
            if ours[start : start + BUCKET_SUM_BYTES] != theirs[start : start + BUCKET_SUM_BYTES]:
                by_bucket[start // BUCKET_SUM_BYTES] = []
        self._work.add(work.STEP * (STATE_BUCKETS + len(self._state.maps)) // 4)
        for owner, owner_map in self._state.maps.items():
            if owner[0] in by_bucket:
                by_bucket[owner[0]].append(owner_map)
        peer.awaits_reply_until = now + HEADS_TIMEOUT_S
        effects: list[Effect] = []
        heads: list[StateHead] = []
        covered = total = 0
        buckets = list(by_bucket)
        self._rng.shuffle(buckets)
        for bucket in buckets:
            found = [_head_of(each) for each in by_bucket[bucket]]
            total += len(found)
            if total > HEADS_PER_REPLY_LIMIT and total > len(found):
                break  # the rest has its turn another time
            if len(heads) + len(found) > HEADS_PER_MESSAGE and heads:
                effects.append(_heads_message(sender, covered, heads))
                covered, heads = 0, []
            heads += found[:HEADS_PER_MESSAGE]
            if len(found) <= HEADS_PER_MESSAGE:
                covered |= 1 << STATE_BUCKETS - 1 - bucket
        return [*effects, _heads_message(sender, covered, heads)]

    def _on_heads(
        self, message: StateHeads, peer: _PeerSync, sender: PeerId, now: float
    ) -> list[Effect]:
        awaited_until = peer.awaits_reply_until if message.is_reply else peer.awaits_heads_until
        if now >= awaited_until:
            return [CountDrop(sender, DropReason.UNSOLICITED)]
        self._work.add(work.STEP * len(message.heads))
        newer: list[OwnerMap] = []
        listed: set[PeerId] = set()
        for prefix, version, digest in message.heads:
            owner = self._state.owner_by_prefix.get(prefix)
            known = None if owner is None else self._state.maps.get(owner)
            if owner is not None:
                listed.add(owner)
            if known is None or version > known.version:
                self._want(prefix, version, sender)
            elif version < known.version:
                newer.append(known)
            elif digest != _head_of(known).digest and not known.is_conflicted:
                newer.append(known)  # proves it to the peer
                self._want(prefix, version, sender, is_conflict=True)
        effects: list[Effect] = []
        if not message.is_reply:
            covered = int.from_bytes(message.covered, "big")
            newer += [
                each
                for owner, each in self._state.maps.items()
                if covered >> STATE_BUCKETS - 1 - owner[0] & 1 and owner not in listed
            ]
            heads = [_head_of(each) for each in newer]
            for start in range(0, len(heads), HEADS_PER_MESSAGE):
                part = heads[start : start + HEADS_PER_MESSAGE]
                effects.append(_heads_message(sender, 0, part, is_reply=True))
            self._state.on_compared()
            if not heads and not self._wanted:
                peer.fruitless_until = now + FRUITLESS_PAUSE_S
        return effects + self._request_more(now)

    # --- requests -------------------------------------------------------------------------------

    def _want(
        self, prefix: bytes, version: Version, source: PeerId, *, is_conflict: bool = False
    ) -> None:
        """Notes that `source` has this version of a map, which is newer than ours or contradicts it."""
        if self._state.is_gone(prefix, version):
            return
        self._state.on_wanted(prefix)
        wanted = self._wanted.get(prefix)
        if wanted is None:
            if len(self._wanted) >= self._wanted_limit:
                return
            wanted = self._wanted[prefix] = _Wanted(version)
        wanted.version = max(wanted.version, version)
        wanted.is_reset |= is_conflict
        if len(wanted.sources) < SOURCES_LIMIT:
            wanted.sources[source] = None

    def _request_more(self, now: float) -> list[Effect]:
        """Requests wanted maps from peers that have them and have no request in progress."""
        if not self._wanted:
            return []
        effects: list[Effect] = []
        for peer_id, peer in self._peers.items():
            if peer.request is None:
                effects += self._request(peer, peer_id, now)
        return effects

    def _request(self, peer: _PeerSync, peer_id: PeerId, now: float) -> list[Effect]:
        wants: list[StateWant] = []
        for prefix, wanted in self._wanted.items():
            if wanted.is_assigned or peer_id not in wanted.sources:
                continue
            wanted.is_assigned = True
            wants.append(StateWant(prefix, self._version_of(prefix, wanted)))
            if len(wants) >= WANTS_PER_REQUEST:
                break
        if not wants:
            return []
        self._last_number += 1
        peer.request = _Request(self._last_number, (each.owner_prefix for each in wants), now)
        self._timers.schedule(peer_id, peer.deadline)
        return [Send((peer_id,), StateRequest(self._last_number, tuple(wants)))]

    def _version_of(self, prefix: bytes, wanted: _Wanted) -> Version:
        """Returns the version of our copy of a map; entries above it are requested."""
        owner = self._state.owner_by_prefix.get(prefix)
        if owner is None or wanted.is_reset:
            return NO_VERSION
        return self._state.maps[owner].version

    def _on_request(
        self, message: StateRequest, peer: _PeerSync, sender: PeerId, now: float
    ) -> list[Effect]:
        copies: list[RumorCopy] = []
        total_bytes = 0
        room_bytes = min(REPLY_BYTES, peer.bytes_bucket.available(now))
        for prefix, above in message.wants:
            owner = self._state.owner_by_prefix.get(prefix)
            owner_map = None if owner is None else self._state.maps.get(owner)
            if owner_map is None:
                continue
            found = owner_map.above(above)
            size_bytes = sum(each.rumor.size_bytes for each in found)
            self._work.add(work.STEP * len(owner_map.entries) // 4)
            if total_bytes + size_bytes > room_bytes and (copies or room_bytes < REPLY_BYTES):
                continue
            total_bytes += size_bytes
            copies += [
                RumorCopy(each.rumor, 0, max(0, int((now - each.published_at) * 1000)))
                for each in found
            ]
        peer.bytes_bucket.take_up_to(now, total_bytes)
        self._work.add(work.KIBIBYTE * (total_bytes >> 10))
        parts = _split(copies)
        last = len(parts) - 1
        return [
            Send((sender,), StateDelta(message.number, index == last, tuple(part)))
            for index, part in enumerate(parts)
        ]

    def _on_delta(
        self, message: StateDelta, peer: _PeerSync, sender: PeerId, now: float
    ) -> list[Effect]:
        request = peer.request
        if request is None or request.number != message.number:
            return [CountDrop(sender, DropReason.UNSOLICITED)]
        request.on_progress(now)
        effects: list[Effect] = []
        touched: dict[PeerId, None] = {}
        for copy in message.copies:
            owner = copy.rumor.origin
            entry = Entry.from_rumor(copy.rumor, now - copy.age_ms / 1000)
            if entry is None or owner[:OWNER_PREFIX_BYTES] not in request.prefixes:
                effects.append(CountDrop(sender, DropReason.UNSOLICITED))
                continue
            staged = request.staged.setdefault(owner, {})
            if len(staged) >= MAX_ENTRIES:
                continue
            verified = self._authentic(entry)
            if verified is None:
                effects.append(CountDrop(sender, DropReason.BAD_SIGNATURE))
                return effects + self._end_request(peer, request, sender, now, is_failed=True)
            staged[entry.version] = verified
            touched[owner] = None
        for owner in touched:
            effects += self._take(owner, request, now)
        if message.is_last:
            effects += self._end_request(peer, request, sender, now)
        return effects

    def _authentic(self, entry: Entry) -> Entry | None:
        """Returns the entry, or our own copy of it; None if its owner did not sign it."""
        known = self._state.maps.get(entry.owner)
        held = None if known is None else known.entries.get(entry.key)
        if (
            held is not None
            and held.rumor.signature == entry.rumor.signature
            and held.hash == entry.hash
        ):
            return held
        self._work.add(work.SIGNATURE)
        return entry if entry.rumor.is_authentic(self._config.current.cluster) else None

    def _take(self, owner: PeerId, request: _Request, now: float) -> list[Effect]:
        """Applies the entries of one map that have arrived, if they are complete."""
        prefix = owner[:OWNER_PREFIX_BYTES]
        staged = request.staged[owner]
        taken = self._state.merge(owner, staged.values(), now)
        if taken is None:
            return []
        del request.staged[owner]
        wanted = self._wanted.get(prefix)
        if wanted is not None and self._state.version_of(owner) >= wanted.version:
            del self._wanted[prefix]
        return taken

    def _end_request(
        self,
        peer: _PeerSync,
        request: _Request,
        peer_id: PeerId,
        now: float,
        *,
        is_failed: bool = False,
    ) -> list[Effect]:
        """Ends a request whose reply is complete or overdue. Maps that it did not bring are requested again,
        or from other peers."""
        peer.request = None
        effects: list[Effect] = []
        self._release(request)
        staged_prefixes = {owner[:OWNER_PREFIX_BYTES] for owner in request.staged}
        has_brought = any(prefix not in self._wanted for prefix in request.prefixes)
        for prefix in request.prefixes:
            wanted = self._wanted.get(prefix)
            if wanted is None:
                continue
            if prefix in staged_prefixes or is_failed or not has_brought:
                wanted.failures += 1
                wanted.is_reset = True
                if is_failed or wanted.failures >= FAILURES_LIMIT:
                    wanted.failures = 0
                    self._remove_source(prefix, wanted, peer_id)
        for owner, staged in request.staged.items():
            effects += self._state.take_back(owner, staged.values(), now)
        return effects + self._request_more(now)

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to call `advance` next; math.inf: never."""
        if self._state.sum != self._noticed_sum:
            return self._state.changed_at
        return min(self._announce_at, self._gap_at, self._timers.deadline)

    @property
    def _gap_at(self) -> float:
        """When to request the entries that early ones wait for."""
        return self._state.early.gap_since + GAP_WAIT_S

    def advance(self, now: float) -> list[Effect]:
        """Announces our sum, compares again, and requests missing maps."""
        effects: list[Effect] = []
        if self._state.sum != self._noticed_sum:
            self._recent_sums.append((now, self._noticed_sum))
            self._noticed_sum = self._state.sum
            interval_s = self._config.current.gossip_interval * (0.5 + 0.5 * self._rng.random())
            self._announce_at = min(self._announce_at, now + interval_s)
        if now >= self._gap_at:
            effects += self._request_missing(now)
        if now >= self._announce_at:
            self._announce_at = math.inf
            for peer_id, peer in self._peers.items():
                if peer.sent_sum != self._state.sum:
                    effects += self._announce(peer, peer_id, now)
        for peer_id in self._timers.pop_expired(now):
            effects += self._advance_peer(self._peers[peer_id], peer_id, now)
        return effects

    def _announce(self, peer: _PeerSync, peer_id: PeerId, now: float) -> list[Effect]:
        is_equal = peer.their_sum == self._state.sum
        peer.retry_at = math.inf if is_equal else now + RETRY_S * 2**peer.retries
        peer.retries = min(peer.retries + 1, RETRIES_LIMIT)
        self._timers.schedule(peer_id, peer.deadline)
        return self._send_sum(peer, peer_id, now)

    def _advance_peer(self, peer: _PeerSync, peer_id: PeerId, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if now >= peer.recheck_at:
            effects += self._recheck(peer, peer_id, now)
        if now >= peer.retry_at:
            effects += self._announce(peer, peer_id, now)
        request = peer.request
        if request is not None and now >= request.expires_at:
            effects += self._end_request(peer, request, peer_id, now, is_failed=True)
        self._timers.schedule(peer_id, peer.deadline)
        return effects

    def _request_missing(self, now: float) -> list[Effect]:
        for gap in self._state.early.take_gaps(now - GAP_WAIT_S):
            if gap.source in self._peers:
                self._want(gap.owner[:OWNER_PREFIX_BYTES], gap.version, gap.source)
        return self._request_more(now)


def _head_of(owner_map: OwnerMap) -> StateHead:
    digest = owner_map.digest.to_bytes(MAP_DIGEST_BYTES, "big")[:HEAD_DIGEST_BYTES]
    return StateHead(bytes(owner_map.owner[:OWNER_PREFIX_BYTES]), owner_map.version, digest)


def _heads_message(
    peer_id: PeerId, covered: int, heads: Iterable[StateHead], *, is_reply: bool = False
) -> Effect:
    bits = covered.to_bytes(STATE_BUCKETS // 8, "big")
    return Send((peer_id,), StateHeads(is_reply, bits, tuple(heads)))


def _split(copies: list[RumorCopy]) -> list[list[RumorCopy]]:
    """Returns the copies as the messages of one reply, at least one."""
    parts: list[list[RumorCopy]] = [[]]
    size_bytes = 0
    for copy in copies:
        cost_bytes = copy.rumor.size_bytes
        if parts[-1] and (
            size_bytes + cost_bytes > DELTA_BYTES or len(parts[-1]) >= COPIES_PER_DELTA
        ):
            parts.append([])
            size_bytes = 0
        parts[-1].append(copy)
        size_bytes += cost_bytes
    return parts
