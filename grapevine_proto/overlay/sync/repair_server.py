"""The repair server: answers requests for cached messages within limits of work, bytes and
repetition.

Invariants:

- An answer is at most `REPAIR_DATAGRAMS_LIMIT` datagrams and `REPAIR_LIMIT_BYTES`, except for one
  larger rumor alone. The rest has to be requested again.
- One peer gets at most `REPAIR_BYTES_BURST` of repair at once and `REPAIR_BYTES_PER_S` after that,
  besides what it pulls of the bytes that were announced to it. It gets one body
  `BODY_REPEATS_LIMIT` times, and again after a pause of `BODY_REPEAT_WINDOW_S`.
- One peer gets at most `VECTORS_BURST` vectors for its digests at once and `VECTORS_PER_S` after
  that.
- An answer examines at most `BODIES_SCANNED_LIMIT` bodies and checks at most
  `CHECKS_PER_REPLY_LIMIT` signatures.
- At most `QUOTA_PEERS_LIMIT` peers are tracked, with `BODIES_PER_PEER_LIMIT` bodies each; the
  oldest are evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.store.message_cache import MessageCache, RumorKey, rumor_key
from grapevine_proto.overlay.store.ranges import merge
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.wire.messages import (
    LAZY_REQUEST_ROUND,
    REPAIR_DATAGRAMS_LIMIT,
    IWant,
    Repair,
    RumorCopy,
)
from grapevine_proto.wire.signed import is_announced_by_topic

REPAIR_DATAGRAM_BYTES: Final = 1000  # of rumors per datagram, approximately
REPAIR_LIMIT_BYTES: Final = 64 * 1024

REPAIR_BYTES_BURST: Final = 32 * 2**20  # half of the default cache
REPAIR_BYTES_PER_S: Final = 4 * 2**20
BODY_REPEATS_LIMIT: Final = 4  # links retransmit losses, so an honest peer rarely asks more often
BODY_REPEAT_WINDOW_S: Final = 30.0
VECTORS_BURST: Final = 8.0
VECTORS_PER_S: Final = 1.0
BODIES_SCANNED_LIMIT: Final = 512
ANNOUNCED_LIMIT: Final = 16  # per answer; each costs a token
# half a millisecond; fewer truncate a joining node so often that much is sent twice
CHECKS_PER_REPLY_LIMIT: Final = 12

QUOTA_PEERS_LIMIT: Final = 1024
BODIES_PER_PEER_LIMIT: Final = 1024


class _PeerQuota:
    """What one peer has been sent."""

    __slots__ = ("bytes_bucket", "sent", "vector_bucket")

    def __init__(self, now: float) -> None:
        self.bytes_bucket = TokenBucket(REPAIR_BYTES_BURST, REPAIR_BYTES_PER_S, now)
        self.vector_bucket = TokenBucket(VECTORS_BURST, VECTORS_PER_S, now)
        self.sent: dict[RumorKey, tuple[int, float]] = {}  # count, last time

    def can_send(self, key: RumorKey, now: float) -> bool:
        count, last_sent_at = self.sent.get(key, (0, now))
        return count < BODY_REPEATS_LIMIT or now - last_sent_at >= BODY_REPEAT_WINDOW_S

    def note_sent(self, key: RumorKey, now: float) -> None:
        count, last_sent_at = self.sent.pop(key, (0, now))
        self.sent[key] = (1 if now - last_sent_at >= BODY_REPEAT_WINDOW_S else count + 1, now)
        if len(self.sent) > BODIES_PER_PEER_LIMIT:
            del self.sent[next(iter(self.sent))]


class RepairReply(NamedTuple):
    """`repairs`, one per datagram, are at least one, possibly empty. `announced` are the copies to announce
    instead: large rumors of topics whose body is not here, or was not asked for by a subscriber."""

    repairs: list[Repair]
    announced: list[RumorCopy]


class RepairServer:
    """Answers requests from the message cache. `withheld` counts bodies and vectors refused because
    a peer had them already or exceeded its quota.
    """

    def __init__(self, cache: MessageCache, peers: PeerTable) -> None:
        self._cache = cache
        self._peers = peers
        self._quotas: OrderedDict[PeerId, _PeerQuota] = OrderedDict()
        self.withheld = 0

    def __len__(self) -> int:
        return len(self._quotas)

    def try_take_vector(self, peer_id: PeerId, now: float) -> bool:
        """Whether one more digest of `peer_id` is answered with a vector; takes it from its quota."""
        if self._quota_of(peer_id, now).vector_bucket.try_take(now):
            return True
        self.withheld += 1
        return False

    def build_repairs(self, request: IWant, peer_id: PeerId, now: float) -> RepairReply:
        """The requested messages that are cached."""
        announced: list[RumorCopy] = []
        quota = self._quota_of(peer_id, now)
        peer = self._peers.get(peer_id) if request.round == LAZY_REQUEST_ROUND else None
        announced_bytes = 0 if peer is None else peer.announced_bytes
        quota_bytes = announced_bytes + quota.bytes_bucket.available(now)
        batches: list[list[RumorCopy]] = [[]]
        size_bytes = total_bytes = 0
        is_truncated = False
        for copy in self._select(request, quota, now):
            if copy is None:
                is_truncated = True
                break  # it is the last
            if is_announced_by_topic(copy.rumor) and (
                not copy.rumor.has_body or request.round != LAZY_REQUEST_ROUND
            ):
                announced.append(copy)
                quota.note_sent(rumor_key(copy.rumor), now)
                if len(announced) >= ANNOUNCED_LIMIT:
                    is_truncated = True
                    break
                continue
            cost_bytes = copy.rumor.size_bytes
            is_full = bool(batches[-1]) and size_bytes + cost_bytes > REPAIR_DATAGRAM_BYTES
            limit_bytes = min(REPAIR_LIMIT_BYTES, quota_bytes)
            is_truncated = (total_bytes > 0 and total_bytes + cost_bytes > limit_bytes) or (
                is_full and len(batches) == REPAIR_DATAGRAMS_LIMIT
            )
            if quota_bytes < min(cost_bytes, REPAIR_LIMIT_BYTES):
                self.withheld += 1
                break
            if is_truncated:
                break
            if is_full:
                batches.append([])
                size_bytes = 0
            batches[-1].append(copy)
            quota.note_sent(rumor_key(copy.rumor), now)
            size_bytes += cost_bytes
            total_bytes += cost_bytes
        charged_bytes = total_bytes - (0 if peer is None else peer.take_announced(total_bytes))
        quota.bytes_bucket.take_up_to(now, charged_bytes)
        last = len(batches) - 1
        repairs = [
            Repair(request.round, index == last, is_truncated, tuple(batch))
            for index, batch in enumerate(batches)
        ]
        return RepairReply(repairs, announced)

    def _select(self, request: IWant, quota: _PeerQuota, now: float) -> Iterator[RumorCopy | None]:
        """The copies to send; a final None means that not all of the request was examined."""
        remaining = BODIES_SCANNED_LIMIT
        checked = self._cache.signatures_checked
        for requested in merge(request.ranges):
            for key in self._cache.keys_in_range(requested):
                remaining -= 1
                if (
                    remaining < 0
                    or self._cache.signatures_checked - checked >= CHECKS_PER_REPLY_LIMIT
                ):
                    yield None
                    return
                if not quota.can_send(key, now):
                    self.withheld += 1
                    continue
                copy = self._cache.copy(key, now)
                if copy is not None and copy.rumor.last >= requested.first:
                    yield copy._replace(hops=copy.hops + 1)

    def _quota_of(self, peer_id: PeerId, now: float) -> _PeerQuota:
        quota = self._quotas.get(peer_id)
        if quota is None:
            quota = self._quotas[peer_id] = _PeerQuota(now)
            if len(self._quotas) > QUOTA_PEERS_LIMIT:
                self._quotas.popitem(last=False)
        else:
            self._quotas.move_to_end(peer_id)
        return quota
