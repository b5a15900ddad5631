"""What each peer may still do here: its allowance, its misconduct, and what was refused it.

What must stay true:

- An account belongs to the identity and outlives its sessions: to come again buys nothing.
- At most `ACCOUNTS_LIMIT`; beyond it that of a peer without a link gives way.
- Offenses add to a score that halves every `HALF_LIFE_S`. From `SLOWED_AT` on the tokens of a peer come
  back more slowly, until the score is below `TRUSTED_AT`; at `REFUSED_AT` it is disconnected, and refused
  until the score is below `SLOWED_AT`.
- Only what a peer's own session proved to come from it counts, and only what no honest node does,
  however bad its network: loss, restarts, overload and slowness cost nothing.
- Asking about an identity makes no account for it: identities are free.

The score is that of gossipsub v1.1, with one threshold for each consequence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import Final

from grapevine_proto.errors import Offense
from grapevine_proto.events import RateLimited, Standing, StandingChanged
from grapevine_proto.ids import PeerId
from grapevine_proto.ratelimit import TokenBucket
from grapevine_proto.sections import RateLimitConfig

ACCOUNTS_LIMIT: Final = 4096
BAD_SIGNATURE_TOKENS: Final = 10.0

HALF_LIFE_S: Final = 60.0  # of a score: two rounds of anti-entropy by default
SLOWED_AT: Final = 50.0
REFUSED_AT: Final = 100.0
TRUSTED_AT: Final = 25.0  # half of `SLOWED_AT`: no more than one change of standing in a half-life
SCORE_LIMIT: Final = (
    800.0  # refused for four half-lives at most: an identity is free, longer is no use
)
NO_SCORE: Final = 1.0  # less than any offense counts
SLOWED_BY: Final = 4.0  # how much more slowly tokens come back: enough for heartbeats and repair

WEIGHTS: Final = {
    Offense.BAD_SIGNATURE: 40.0,  # nothing but malice makes one: the third within 20 s is too many
    Offense.PROTOCOL_VIOLATION: 10.0,  # malice, or a program that is broken
    Offense.BROKEN_PROMISE: 1.0,  # overload makes many; `KEPT_PROMISE` makes up for these
    Offense.REPEATED_QUESTION: 1.0,  # a retransmission lost thrice repeats a question or two
    Offense.IDLE_EXCHANGE: 4.0,  # one in each round of anti-entropy (30 s) stays below `SLOWED_AT`
    Offense.EXCESS_WORK: 1.0,  # for each `WORK_PER_TOKEN` beyond what is paid
}
KEPT_PROMISE: Final = (
    4.0  # broken promises that a kept one makes up for: a node that keeps a fifth is honest
)
PROMISE_CREDIT: Final = (
    40.0  # kept promises make up for so many that are yet to be broken, and no more
)

WORK_PER_TOKEN: Final = 1000.0
"""Units of work that a token pays for; a unit is about a microsecond (`overlay.work`). A peer that uses
all of its default allowance may cost a twentieth of a core."""
REFUSED_WORK: Final = 15  # units: a message beyond the allowance was opened all the same


class Score:
    """What counts against one identity. Values are as of `_at`, and halve every `HALF_LIFE_S`."""

    __slots__ = ("_at", "_promises", "_sum", "offenses")

    def __init__(self) -> None:
        self._at = 0.0
        self._sum = 0.0
        self._promises = 0.0  # broken less what the kept ones make up for; may be negative
        self.offenses: dict[Offense, float] = {}  # what each adds to the score

    def at(self, now: float) -> float:
        """The score, at most `SCORE_LIMIT`."""
        self._decay(now)
        return min(self._sum + max(self._promises, 0.0), SCORE_LIMIT)

    def add(self, offense: Offense, count: float, now: float) -> None:
        self._decay(now)
        points = min(WEIGHTS[offense] * count, SCORE_LIMIT)
        self.offenses[offense] = self.offenses.get(offense, 0.0) + points
        if offense is Offense.BROKEN_PROMISE:
            self._promises = min(self._promises + points, SCORE_LIMIT)
        else:
            self._sum = min(self._sum + points, SCORE_LIMIT)

    def credit(self, count: int, now: float) -> None:
        """So many promises were kept."""
        self._decay(now)
        self._promises = max(self._promises - KEPT_PROMISE * count, -PROMISE_CREDIT)

    def why(self) -> str:
        """What counts most, in words."""
        most = max(self.offenses, key=self.offenses.__getitem__, default=None)
        return most.replace("_", " ") if most is not None else ""

    def _decay(self, now: float) -> None:
        if now <= self._at:
            return
        left = 0.5 ** ((now - self._at) / HALF_LIFE_S)
        self._at = now
        self._sum *= left
        self._promises *= left
        for offense in self.offenses:
            self.offenses[offense] *= left


class Account:
    """One peer's. `bucket` is what we allow it, None for everything; `shape` is what it allows us, as
    far as an earlier link used it; `work` is what it may cost, None for anything."""

    __slots__ = ("bucket", "score", "shape", "standing", "throttled", "told", "work")

    def __init__(self, bucket: TokenBucket | None, work: TokenBucket | None) -> None:
        self.bucket = bucket
        self.work = work
        self.shape: TokenBucket | None = None
        self.score: Score | None = None  # most peers never have one
        self.standing = Standing.NORMAL
        self.throttled = 0
        self.told = 0  # of those, how many the application knows of

    def score_at(self, now: float) -> float:
        return 0.0 if self.score is None else self.score.at(now)


class Accounts:
    """All accounts. `linked` tells whose must stay."""

    def __init__(self, limit: RateLimitConfig, linked: Container[PeerId]) -> None:
        self._limit = limit
        self._linked = linked
        self._accounts: dict[PeerId, Account] = {}
        self._penalized: dict[PeerId, Account] = {}  # whose standing is not normal
        self.forgotten = 0  # for want of room
        self.offenses: Counter[Offense] = Counter()
        self.slowed = 0  # how often an identity was
        self.expelled = 0  # how often one was disconnected for misconduct

    def __len__(self) -> int:
        return len(self._accounts)

    def get(self, peer_id: PeerId) -> Account | None:
        return self._accounts.get(peer_id)

    def of(self, peer_id: PeerId, now: float) -> Account:
        """The account of `peer_id`, a new one where it has none."""
        account = self._accounts.get(peer_id)
        if account is None:
            if len(self._accounts) >= ACCOUNTS_LIMIT:
                idle = next((each for each in self._accounts if each not in self._linked), None)
                if idle is not None:  # else all are linked, and links have a limit of their own
                    del self._accounts[idle]
                    self._penalized.pop(idle, None)
                    self.forgotten += 1
            account = self._accounts[peer_id] = Account(*self._buckets(now))
        return account

    def _buckets(self, now: float) -> tuple[TokenBucket, TokenBucket] | tuple[None, None]:
        """The tokens and the work of somebody new."""
        limit = self._limit
        if not limit.enabled:
            return None, None
        tokens = TokenBucket(limit.capacity, limit.refill_rate, now)
        return tokens, TokenBucket(*self._work_limits, now)

    @property
    def _work_limits(self) -> tuple[float, float]:
        limit = self._limit
        return limit.capacity * WORK_PER_TOKEN, limit.refill_rate * WORK_PER_TOKEN

    def reap(self, now: float) -> None:
        """Let go of accounts that say nothing: of identities without a link that have all their tokens
        and no score, which is how a new one begins."""
        for peer_id, account in list(self._accounts.items()):
            buckets = (account.bucket, account.work, account.shape)
            is_new = all(bucket is None or bucket.is_full(now) for bucket in buckets)
            is_new = is_new and peer_id not in self._penalized and account.score_at(now) < NO_SCORE
            if is_new and peer_id not in self._linked:
                del self._accounts[peer_id]

    def news(self, peer_id: PeerId, now: float) -> RateLimited | None:
        """What was refused the peer since the last call, where there was anything."""
        account = self.of(peer_id, now)
        dropped = account.throttled - account.told
        if not dropped:
            return None
        account.told = account.throttled
        tokens = account.bucket.available(now) if account.bucket else 0.0
        return RateLimited(peer_id, dropped, tokens)

    def reconfigure(self, limit: RateLimitConfig, now: float) -> None:
        self._limit = limit
        for account in self._accounts.values():
            if not limit.enabled:
                account.bucket = account.work = None
            elif account.bucket is None or account.work is None:
                account.bucket, account.work = self._buckets(now)
            else:
                account.bucket.resize(limit.capacity, self._refill_of(account), now)
                account.work.resize(*self._work_limits, now)

    # --- offenses -------------------------------------------------------------------------------

    def penalize(
        self, peer_id: PeerId, offense: Offense, count: float, now: float
    ) -> StandingChanged | None:
        """Count an offense; what changes by it, if anything. Nothing is kept of an identity that has no
        account."""
        self.offenses[offense] += max(int(count), 1)
        account = self._accounts.get(peer_id)
        if account is None:
            return None
        if account.score is None:
            account.score = Score()
        account.score.add(offense, count, now)
        if offense is Offense.BAD_SIGNATURE and account.bucket is not None:
            account.bucket.take(now, min(account.bucket.available(now), BAD_SIGNATURE_TOKENS))
        return self._judge(peer_id, account, now)

    def credit(self, peer_id: PeerId, count: int, now: float) -> None:
        """The peer kept so many promises."""
        account = self._accounts.get(peer_id)
        if account is not None:
            if account.score is None:
                account.score = Score()
            account.score.credit(count, now)

    def charge_work(self, peer_id: PeerId, units: int, now: float) -> StandingChanged | None:
        """What the peer said cost so much; what changes by it, if anything."""
        account = self._accounts.get(peer_id)
        if account is None or account.work is None or account.work.take(now, units):
            return None
        paid = account.work.available(now)
        account.work.take(now, paid)
        excess = (units - paid) / WORK_PER_TOKEN
        return self.penalize(peer_id, Offense.EXCESS_WORK, excess, now)

    def refuses(self, peer_id: PeerId, now: float) -> bool:
        """Whether the identity may not come in, for what it did."""
        account = self._accounts.get(peer_id)
        return account is not None and account.standing is Standing.REFUSED

    def restore(self, now: float) -> list[StandingChanged]:
        """Once a second or so: whose score has decayed below a bound."""
        changes = [self._judge(*each, now) for each in list(self._penalized.items())]
        return [change for change in changes if change is not None]

    def _judge(self, peer_id: PeerId, account: Account, now: float) -> StandingChanged | None:
        score, before = account.score_at(now), account.standing
        slowed_at = SLOWED_AT if before is Standing.NORMAL else TRUSTED_AT
        if score >= REFUSED_AT or (score >= SLOWED_AT and before is Standing.REFUSED):
            account.standing = Standing.REFUSED
        else:
            account.standing = Standing.SLOWED if score >= slowed_at else Standing.NORMAL
        if account.standing is before:
            return None
        if account.standing is Standing.NORMAL:
            self._penalized.pop(peer_id, None)
        else:
            self._penalized[peer_id] = account
        self.slowed += account.standing is Standing.SLOWED
        self.expelled += account.standing is Standing.REFUSED
        if account.bucket is not None:
            account.bucket.resize(self._limit.capacity, self._refill_of(account), now)
        why = account.score.why() if account.score is not None else ""
        return StandingChanged(peer_id, account.standing, score, why)

    def _refill_of(self, account: Account) -> float:
        is_normal = account.standing is Standing.NORMAL
        return self._limit.refill_rate / (1.0 if is_normal else SLOWED_BY)
