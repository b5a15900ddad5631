"""Per-identity limits: rate-limit tokens, work budget and misconduct score (after the peer score of gossipsub
v1.1, with one threshold per consequence).

Invariants:

- Limits belong to the identity and outlive its sessions, so reconnecting gains nothing.
- At most `TRACKED_PEERS_LIMIT` identities are tracked; beyond that one without a link is evicted.
- Offenses add to a score that halves every `SCORE_HALF_LIFE_S`. From `SLOWED_SCORE` on, a peer's tokens
  refill more slowly, until the score falls below `RECOVERED_SCORE`. At `EXPELLED_SCORE` the peer is
  disconnected and not admitted until the score falls below `SLOWED_SCORE`.
- Only what arrived on a peer's own session counts, and only what no honest node does on any network: loss,
  restarts, overload and slowness cost nothing.
- Looking an identity up does not create an entry: identities are free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import Final

from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.errors import Offense
from grapevine_proto.events import RateLimited, Standing, StandingChanged
from grapevine_proto.ids import PeerId
from grapevine_proto.token_bucket import TokenBucket

TRACKED_PEERS_LIMIT: Final = 4096
BAD_SIGNATURE_TOKENS: Final = 10.0

SCORE_HALF_LIFE_S: Final = 60.0  # two anti-entropy rounds by default
SLOWED_SCORE: Final = 50.0
EXPELLED_SCORE: Final = 100.0
RECOVERED_SCORE: Final = (
    25.0  # half of `SLOWED_SCORE`: at most one change of standing per half-life
)
SCORE_LIMIT: Final = (
    800.0  # expels for at most four half-lives: identities are free, longer is useless
)
NEGLIGIBLE_SCORE: Final = 1.0  # below the weight of any offense
SLOWED_REFILL_DIVISOR: Final = 4.0  # still enough for heartbeats and repairs

OFFENSE_WEIGHTS: Final = {
    Offense.BAD_SIGNATURE: 40.0,  # always malicious: the third within 20 s expels
    Offense.PROTOCOL_VIOLATION: 10.0,  # malicious, or a broken program
    Offense.BROKEN_PROMISE: 1.0,  # common under overload; see `KEPT_PROMISE_WEIGHT`
    Offense.REPEATED_REQUEST: 1.0,  # losses cause one or two
    Offense.STALLED_ROUND: 4.0,  # one per anti-entropy round (30 s) stays below `SLOWED_SCORE`
    Offense.EXCESS_WORK: 1.0,  # per `WORK_PER_TOKEN` above the budget
}
KEPT_PROMISE_WEIGHT: Final = (
    4.0  # broken promises that one kept promise cancels: keeping 20 % suffices
)
PROMISE_CREDIT_LIMIT: Final = 40.0  # broken promises that may be cancelled in advance

WORK_PER_TOKEN: Final = 1000.0
"""Work units that a token pays for; one unit is about a microsecond (`work`). A peer that uses its whole
default rate limit may cost a twentieth of a core."""
RATE_LIMITED_MESSAGE_WORK: Final = 15  # units: a rate-limited message was still decrypted


class MisconductScore:
    """The misconduct score of one identity. Values are as of `_decayed_at`."""

    __slots__ = ("_broken_promises", "_decayed_at", "_offense_sum", "offenses")

    def __init__(self) -> None:
        self._decayed_at = 0.0
        self._offense_sum = 0.0
        self._broken_promises = 0.0  # less the kept ones; may be negative
        self.offenses: dict[Offense, float] = {}  # share of each offense

    def value_at(self, now: float) -> float:
        """Returns the score at `now`, at most `SCORE_LIMIT`."""
        self._decay(now)
        return min(self._offense_sum + max(self._broken_promises, 0.0), SCORE_LIMIT)

    def add(self, offense: Offense, count: float, now: float) -> None:
        """Adds `count` offenses of one kind."""
        self._decay(now)
        points = min(OFFENSE_WEIGHTS[offense] * count, SCORE_LIMIT)
        self.offenses[offense] = self.offenses.get(offense, 0.0) + points
        if offense is Offense.BROKEN_PROMISE:
            self._broken_promises = min(self._broken_promises + points, SCORE_LIMIT)
        else:
            self._offense_sum = min(self._offense_sum + points, SCORE_LIMIT)

    def credit_promises(self, count: int, now: float) -> None:
        """Credits `count` kept promises against broken ones."""
        self._decay(now)
        self._broken_promises = max(
            self._broken_promises - KEPT_PROMISE_WEIGHT * count, -PROMISE_CREDIT_LIMIT
        )

    def top_offense(self) -> str:
        """Returns the name of the offense with the largest share, for people; empty if there is none."""
        top = max(self.offenses, key=self.offenses.__getitem__, default=None)
        return top.replace("_", " ") if top is not None else ""

    def _decay(self, now: float) -> None:
        if now <= self._decayed_at:
            return
        factor = 0.5 ** ((now - self._decayed_at) / SCORE_HALF_LIFE_S)
        self._decayed_at = now
        self._offense_sum *= factor
        self._broken_promises *= factor
        for offense in self.offenses:
            self.offenses[offense] *= factor


class PeerLimits:
    """The limits of one peer.

    `bucket` holds its inbound tokens and `work_bucket` its work budget (None: unlimited). `send_limit`
    holds the tokens that it grants to us, kept from an earlier link.
    """

    __slots__ = (
        "bucket",
        "score",
        "send_limit",
        "standing",
        "throttled",
        "throttled_reported",
        "work_bucket",
    )

    def __init__(self, bucket: TokenBucket | None, work_bucket: TokenBucket | None) -> None:
        self.bucket = bucket
        self.work_bucket = work_bucket
        self.send_limit: TokenBucket | None = None
        self.score: MisconductScore | None = None  # most peers never have one
        self.standing = Standing.NORMAL
        self.throttled = 0
        self.throttled_reported = 0  # the part of it that was reported

    def score_at(self, now: float) -> float:
        """Returns the misconduct score."""
        return 0.0 if self.score is None else self.score.value_at(now)


class PeerLimitTable:
    """The limits of all tracked identities. Those in `linked` are never evicted."""

    def __init__(self, config: RateLimitConfig, linked: Container[PeerId]) -> None:
        self._config = config
        self._linked = linked
        self._tracked_limit = TRACKED_PEERS_LIMIT
        self._limits: dict[PeerId, PeerLimits] = {}
        self._penalized: dict[PeerId, PeerLimits] = {}  # peers whose standing is not normal
        self.evicted = 0
        self.offenses: Counter[Offense] = Counter()
        self.slowed = 0  # times a peer was slowed
        self.expelled = 0  # times a peer was disconnected for misconduct

    def __len__(self) -> int:
        return len(self._limits)

    def get(self, peer_id: PeerId) -> PeerLimits | None:
        """Returns the limits of `peer_id`, or None if it is not tracked."""
        return self._limits.get(peer_id)

    def get_or_create(self, peer_id: PeerId, now: float) -> PeerLimits:
        """Returns the limits of `peer_id`, new ones if it is not tracked."""
        limits = self._limits.get(peer_id)
        if limits is None:
            if len(self._limits) >= self._tracked_limit:
                idle = next((each for each in self._limits if each not in self._linked), None)
                if idle is not None:  # otherwise all are linked, and links are limited elsewhere
                    del self._limits[idle]
                    self._penalized.pop(idle, None)
                    self.evicted += 1
            limits = self._limits[peer_id] = PeerLimits(*self._new_buckets(now))
        return limits

    def _new_buckets(self, now: float) -> tuple[TokenBucket, TokenBucket] | tuple[None, None]:
        """Returns the token bucket and the work bucket of a new peer."""
        config = self._config
        if not config.enabled:
            return None, None
        tokens = TokenBucket(config.capacity, config.refill_rate, now)
        return tokens, TokenBucket(*self._work_limits, now)

    @property
    def _work_limits(self) -> tuple[float, float]:
        config = self._config
        return config.capacity * WORK_PER_TOKEN, config.refill_rate * WORK_PER_TOKEN

    def reap(self, now: float) -> None:
        """Removes entries without a link, with full buckets and no score: a new entry would be the same."""
        for peer_id, limits in list(self._limits.items()):
            buckets = (limits.bucket, limits.work_bucket, limits.send_limit)
            is_pristine = all(bucket is None or bucket.is_full(now) for bucket in buckets)
            is_pristine = (
                is_pristine
                and peer_id not in self._penalized
                and limits.score_at(now) < NEGLIGIBLE_SCORE
            )
            if is_pristine and peer_id not in self._linked:
                del self._limits[peer_id]

    def count_throttled(self, peer_id: PeerId, now: float) -> None:
        """A message of the peer was dropped because it had no token."""
        self.get_or_create(peer_id, now).throttled += 1

    def keep_send_limit(self, peer_id: PeerId, send_limit: TokenBucket | None, now: float) -> None:
        """Keeps what the peer allows us, for the next link with it."""
        self.get_or_create(peer_id, now).send_limit = send_limit

    def take_rate_limited_event(self, peer_id: PeerId, now: float) -> RateLimited | None:
        """Returns the event for messages dropped since the last call, or None if there were none."""
        limits = self.get_or_create(peer_id, now)
        dropped = limits.throttled - limits.throttled_reported
        if not dropped:
            return None
        limits.throttled_reported = limits.throttled
        tokens = limits.bucket.available(now) if limits.bucket else 0.0
        return RateLimited(peer_id, dropped, tokens)

    def reconfigure(self, config: RateLimitConfig, now: float) -> None:
        """Applies a changed rate limit to all peers."""
        self._config = config
        for limits in self._limits.values():
            if not config.enabled:
                limits.bucket = limits.work_bucket = None
            elif limits.bucket is None or limits.work_bucket is None:
                limits.bucket, limits.work_bucket = self._new_buckets(now)
            else:
                limits.bucket.resize(config.capacity, self._refill_of(limits), now)
                limits.work_bucket.resize(*self._work_limits, now)

    # --- offenses -------------------------------------------------------------------------------

    def penalize(
        self, peer_id: PeerId, offense: Offense, count: float, now: float
    ) -> StandingChanged | None:
        """Records `count` offenses. Returns the change of standing, if any. An identity that is not tracked
        stays so."""
        self.offenses[offense] += max(int(count), 1)
        limits = self._limits.get(peer_id)
        if limits is None:
            return None
        if limits.score is None:
            limits.score = MisconductScore()
        limits.score.add(offense, count, now)
        if offense is Offense.BAD_SIGNATURE and limits.bucket is not None:
            limits.bucket.take_up_to(now, BAD_SIGNATURE_TOKENS)
        return self._update_standing(peer_id, limits, now)

    def credit_promises(self, peer_id: PeerId, count: int, now: float) -> None:
        """Credits `count` kept promises to the peer."""
        limits = self._limits.get(peer_id)
        if limits is not None:
            if limits.score is None:
                limits.score = MisconductScore()
            limits.score.credit_promises(count, now)

    def charge_work(self, peer_id: PeerId, units: int, now: float) -> StandingChanged | None:
        """Charges `units` of work that the peer caused. Returns the change of standing, if any."""
        limits = self._limits.get(peer_id)
        if limits is None or limits.work_bucket is None or limits.work_bucket.try_take(now, units):
            return None
        available = limits.work_bucket.available(now)
        limits.work_bucket.try_take(now, available)
        excess = (units - available) / WORK_PER_TOKEN
        return self.penalize(peer_id, Offense.EXCESS_WORK, excess, now)

    def is_expelled(self, peer_id: PeerId, now: float) -> bool:
        """Whether the identity may not connect because of misconduct."""
        limits = self._limits.get(peer_id)
        return limits is not None and limits.standing is Standing.EXPELLED

    def update_standings(self, now: float) -> list[StandingChanged]:
        """Returns the changes of standing due to decayed scores. Call it about once a second."""
        changes = [self._update_standing(*each, now) for each in list(self._penalized.items())]
        return [change for change in changes if change is not None]

    def _update_standing(
        self, peer_id: PeerId, limits: PeerLimits, now: float
    ) -> StandingChanged | None:
        score, previous = limits.score_at(now), limits.standing
        slowed_score = SLOWED_SCORE if previous is Standing.NORMAL else RECOVERED_SCORE
        if score >= EXPELLED_SCORE or (score >= SLOWED_SCORE and previous is Standing.EXPELLED):
            limits.standing = Standing.EXPELLED
        else:
            limits.standing = Standing.SLOWED if score >= slowed_score else Standing.NORMAL
        if limits.standing is previous:
            return None
        if limits.standing is Standing.NORMAL:
            self._penalized.pop(peer_id, None)
        else:
            self._penalized[peer_id] = limits
        self.slowed += limits.standing is Standing.SLOWED
        self.expelled += limits.standing is Standing.EXPELLED
        if limits.bucket is not None:
            limits.bucket.resize(self._config.capacity, self._refill_of(limits), now)
        reason = limits.score.top_offense() if limits.score is not None else ""
        return StandingChanged(peer_id, limits.standing, score, reason)

    def _refill_of(self, limits: PeerLimits) -> float:
        is_normal = limits.standing is Standing.NORMAL
        return self._config.refill_rate / (1.0 if is_normal else SLOWED_REFILL_DIVISOR)
