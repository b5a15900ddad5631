"""The dialer: chooses addresses to dial, and when: bootstrap addresses, lost peers, discovered
members.

Invariants:

- Every address is a hint. All dials share one budget: `PENDING_DIALS_LIMIT` at once and
  `DIALS_PER_S` in the long run. Only links that `active_view` wants are dialed, and those that may
  show that a partition has healed.
- Bootstrap addresses are dialed forever, at least every `REDIAL_MAX_S`, and so are recently lost
  peers: that is how partitions heal. At most `SAVED_ADDRESSES_LIMIT` addresses from an earlier run
  are dialed too, with growing intervals: no answer proves nothing while our own network may be
  down.
- A host name stands for its current addresses; former ones are no longer dialed for it. Bootstrap
  addresses that were never dialed come first, then those that have waited longest.
- An address that only a record claims gets `UNVALIDATED_HELLOS` Hellos from a small budget, which
  an answer refunds, and none if `address_policy` forbids it.
- No address is dialed twice at once for the same purpose, nor while a link to it exists and its peer
  acknowledges what it is sent, nor if it is ours.
- A claimed address neither prevents nor delays another dial: only a session proves that a member is
  at an address, and a dial for one member says nothing about other nodes there.

A component of `membership`, which reports the outcome of dials and links.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

from grapevine_proto.dial_purpose import LINK, NEIGHBOR, swap
from grapevine_proto.errors import DropReason
from grapevine_proto.events import DialFailed, MemberStatus, PeerState
from grapevine_proto.ids import Address, PeerId, parse_literal
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import Dial, Effect, Emit, PeerTransitioned
from grapevine_proto.overlay.members import Member
from grapevine_proto.overlay.peers import PeerTrigger
from grapevine_proto.overlay.topology.active_view import LINK_GRACE_S, ActiveView
from grapevine_proto.overlay.topology.address_policy import can_dial_claimed
from grapevine_proto.overlay.topology.hole_punching import HolePunching
from grapevine_proto.overlay.topology.xbot import ProximityOptimizer, SwapCandidate
from grapevine_proto.token_bucket import TokenBucket

PENDING_DIALS_LIMIT: Final = 16  # awaiting an answer
DIAL_PENDING_S: Final = 1.0  # after which another dial may start
DIALS_BURST: Final = 64  # to replace most links at once
DIALS_PER_S: Final = 2.0  # in the long run, even if few answer
REBALANCE_INTERVALS: Final = 1.0  # gossip intervals between two dials for a better fitting link
REBALANCE_BACKOFF: Final = 1.2  # growth per dial, because there may be no better link
REBALANCE_MAX_S: Final = 60.0  # upper bound
EXPLORE_INTERVAL_S: Final = 60.0
PREFERRED_LIMIT: Final = 16
REFERRED_LIMIT: Final = 64  # peers dialed by referral, which do not count as self-chosen
SELF_CHOSEN_INTERVAL_S: Final = 2.0  # between dials for a self-chosen link while crowded
REDIAL_MIN_S: Final = 1.0
REDIAL_MAX_S: Final = 20.0  # for bootstrap addresses and recently lost peers
REDIAL_LONG_LOST_MAX_S: Final = 300.0  # for peers lost long ago
RECENTLY_LOST_S: Final = 600.0
SAVED_ADDRESSES_LIMIT: Final = 64  # peer addresses kept in the state directory for the next run
UNVALIDATED_BURST: Final = 64  # dials of claimed addresses
UNVALIDATED_PER_S: Final = 0.2  # in the long run, if none answers
UNVALIDATED_HELLOS: Final = 3  # per dial of a claimed address
NAME_UNRESOLVED_REASON: Final = "the name does not resolve"
NO_ROOM_PAUSE_S: Final = 30.0  # before dialing again after a rejection
ADDRESSES_PER_NAME: Final = 16  # of a host name


_DialKey: TypeAlias = tuple[Address, PeerId | None]  # address, and the expected peer if known


class _DialTarget:
    """An address to dial with unknown identity. `is_permanent`: a bootstrap or requested address,
    dialed forever and with failures reported; otherwise it is remembered from an earlier run or,
    before any peer answered, a hint.
    """

    __slots__ = ("dial_at", "failures", "is_permanent", "is_self", "last_peer")

    def __init__(self, now: float, *, is_permanent: bool) -> None:
        self.dial_at = now
        self.failures = 0
        self.is_permanent = is_permanent
        self.is_self = False  # our own address
        self.last_peer: PeerId | None = None  # that answered there


class Dialer:
    """Chooses the addresses to dial; `dial_due` returns the dials that are due."""

    def __init__(
        self,
        context: OverlayContext,
        active_view: ActiveView,
        proximity: ProximityOptimizer,
        our_address: Address,
        now: float,
    ) -> None:
        self._config = context.config
        self._peers = context.peers
        self._members = context.members
        self._rng = context.rng
        self._active_view = active_view
        self._proximity = proximity
        self.our_addresses: tuple[Address, ...] = (our_address,)
        self._bootstrap_names: dict[str, tuple[Address, ...]] = {}
        self._unresolved_names: set[str] = set()  # that failed to resolve last time
        self._requested: dict[Address, None] = {}  # dialed because the application asked
        self._hole_punching = HolePunching(context, now)
        self._unvalidated: set[_DialKey] = set()  # dials in progress of claimed addresses
        self._unvalidated_budget = TokenBucket(UNVALIDATED_BURST, UNVALIDATED_PER_S, now)
        self._targets: dict[Address, _DialTarget] = {}
        self._disconnected: dict[PeerId, None] = {}  # lost peers to redial
        self._referred: dict[PeerId, None] = {}  # dialed by referral, latest last
        self._preferred: list[PeerId] = []  # from referrals, latest last
        self._in_progress: dict[_DialKey, float] = {}  # since when
        self._dials_per_member: dict[PeerId | None, int] = {}  # None: of unknown identity
        self._dial_budget = TokenBucket(DIALS_BURST, DIALS_PER_S, now)
        self._explore_at = now + EXPLORE_INTERVAL_S
        self._self_chosen_at = now
        self._rebalance_at, self._rebalance_pause_intervals = now, REBALANCE_INTERVALS
        self.reconfigure(now)

    def set_our_addresses(self, addresses: tuple[Address, ...]) -> None:
        """This node has other addresses from now on, which are never dialed."""
        self.our_addresses = addresses

    def reconfigure(self, now: float) -> None:
        """Settings changed: dial new bootstrap addresses."""
        bootstrap_addresses = self._config.current.bootstrap_addresses
        for name in set(self._bootstrap_names) - set(bootstrap_addresses):
            self._release_addresses(self._bootstrap_names.pop(name))
            self._unresolved_names.discard(name)
        for name in bootstrap_addresses:
            if name not in self._bootstrap_names:
                self._add_bootstrap(name, now)

    # --- candidates -----------------------------------------------------------------------------

    def _add_bootstrap(self, name: str, now: float) -> None:
        address = parse_literal(name)
        if address is None:
            self._bootstrap_names[name] = ()  # a name, which the driver resolves
        else:
            self._bootstrap_names[name] = (address,)
            self._targets[address] = _DialTarget(now, is_permanent=True)

    def on_resolved(self, name: str, addresses: tuple[Address, ...], now: float) -> list[Effect]:
        """The bootstrap name `name` resolved to `addresses`. None means that it does not resolve;
        its former addresses then stay.
        """
        if name not in self._bootstrap_names:
            return []
        if not addresses:
            was_unresolved = name in self._unresolved_names
            self._unresolved_names.add(name)
            return [] if was_unresolved else [Emit(DialFailed(name, NAME_UNRESOLVED_REASON))]
        self._unresolved_names.discard(name)
        previous = self._bootstrap_names[name]
        self._bootstrap_names[name] = addresses = addresses[:ADDRESSES_PER_NAME]
        for address in addresses:
            target = self._targets.setdefault(address, _DialTarget(now, is_permanent=True))
            target.is_permanent = True
        self._release_addresses(previous)
        return []

    def _release_addresses(self, addresses: tuple[Address, ...]) -> None:
        """A name no longer resolves to `addresses`. Those of no other name are removed, or merely
        remembered if a peer answered there.
        """
        named_addresses = {address for each in self._bootstrap_names.values() for address in each}
        for address in addresses:
            target = self._targets.get(address)
            if target is None or address in named_addresses or address in self._requested:
                continue
            if target.last_peer is None:
                del self._targets[address]
            else:
                target.is_permanent = False
        self._trim_saved()

    def _trim_saved(self) -> None:
        """Keep only `SAVED_ADDRESSES_LIMIT` remembered addresses, those with the fewest failures."""
        remembered = [
            address for address, target in self._targets.items() if not target.is_permanent
        ]
        if len(remembered) > SAVED_ADDRESSES_LIMIT:
            remembered.sort(key=lambda address: self._targets[address].failures)
            for address in remembered[SAVED_ADDRESSES_LIMIT:]:
                del self._targets[address]

    def remember(self, known: tuple[tuple[PeerId, Address], ...], now: float) -> None:
        """Remember peers of an earlier run, best first. Each address is worth a dial, whichever
        node is there now.
        """
        for peer_id, address in known[:SAVED_ADDRESSES_LIMIT]:
            if address not in self._targets:
                target = self._targets[address] = _DialTarget(now, is_permanent=False)
                target.last_peer = peer_id
        self._trim_saved()

    def known_addresses(self) -> tuple[tuple[PeerId, Address], ...]:
        """Validated addresses for the next run, best first: linked peers, recently linked peers,
        then remembered addresses.
        """
        validated = [peer for peer in self._peers if peer.is_address_validated]
        linked = [peer for peer in validated if self._peers.is_linked(peer.peer_id)]
        others = [peer for peer in validated if not self._peers.is_linked(peer.peer_id)]
        linked.sort(key=lambda peer: peer.linked_at or 0.0)
        others.sort(key=lambda peer: -peer.last_heard_at)
        known = {peer.address: peer.peer_id for peer in (*linked, *others)}
        remembered = sorted(self._targets.items(), key=lambda each: each[1].failures)
        for address, target in remembered:
            if target.last_peer is not None:
                known.setdefault(address, target.last_peer)
        return tuple((peer_id, address) for address, peer_id in known.items())[
            :SAVED_ADDRESSES_LIMIT
        ]

    def hint(self, address: Address, now: float) -> list[Effect]:
        """A source of discovery names `address`: dial it once, unless it is known. It is remembered
        if a node answers there.
        """
        if address in self._targets:
            return []
        self._targets[address] = _DialTarget(now, is_permanent=False)
        self._trim_saved()
        return self._dial(address, None, now, wants_room=self._active_view.needs_links(now))

    def dial_now(self, address: Address, now: float) -> list[Effect]:
        """Dial `address` at once at the application's request."""
        if len(self._targets) < self._config.current.limits.addresses:
            self._requested[address] = None
            self._targets[address] = _DialTarget(now, is_permanent=True)
        return self._dial(address, None, now, wants_room=True, is_requested=True)

    def redial(self, member: Member, now: float) -> None:
        """Redial a member soon after its link was lost."""
        self._disconnected[member.record.peer_id] = None
        self._postpone(member, now + REDIAL_MIN_S * (0.5 + self._rng.random()))

    def back_off(self, member: Member, now: float) -> None:
        """Do not redial a member soon: it evicted our link."""
        self.stop_looking(member.record.peer_id)
        self._postpone(member, now + NO_ROOM_PAUSE_S * (0.5 + self._rng.random()))

    def _postpone(self, member: Member, until: float) -> None:
        """Do not dial a member before `until`, neither by its record nor at addresses where it
        answered.
        """
        member.dial_not_before(until)
        for target in self._targets.values():
            if target.last_peer == member.record.peer_id:
                target.dial_at = until

    def prefer(self, peer_ids: list[PeerId]) -> None:
        """Dial these members before others, the last one first: they are linked elsewhere and thus
        alive.
        """
        self._preferred = [*self._preferred, *reversed(peer_ids)][-PREFERRED_LIMIT:]

    def is_self_chosen(self, peer_id: PeerId) -> bool:
        """Whether a link to it is our own choice: it was neither referred to us, nor linked by its
        own choice before. Otherwise a peer could choose our links for us.
        """
        return peer_id not in self._referred

    def _note_referred(self, peer_id: PeerId) -> None:
        self._referred.pop(peer_id, None)
        self._referred[peer_id] = None
        if len(self._referred) > REFERRED_LIMIT:
            del self._referred[next(iter(self._referred))]

    def stop_looking(self, peer_id: PeerId) -> None:
        """Stop redialing a peer: it is linked, or left."""
        self._disconnected.pop(peer_id, None)
        self._referred.pop(peer_id, None)

    def remove_peer(self, peer_id: PeerId) -> None:
        """Stop redialing a peer, also where it answered, except at bootstrap addresses."""
        self.stop_looking(peer_id)
        bootstrap_addresses = set(self._config.current.bootstrap_addresses)
        for address, target in list(self._targets.items()):
            if target.last_peer == peer_id and str(address) not in bootstrap_addresses:
                del self._targets[address]

    # --- outcomes -------------------------------------------------------------------------------

    def on_answered(
        self, address: Address, expected: PeerId | None, peer_id: PeerId, now: float
    ) -> None:
        """Our dial led to a session with `peer_id`, which ends those at its other addresses. If no link
        follows because we have no room, it is not redialed soon.
        """
        self._end_dial((address, expected), now, is_answered=True)
        if expected is not None and expected in self._dials_per_member:
            for dial_key in [each for each in self._in_progress if each[1] == expected]:
                self._end_dial(dial_key, now, is_answered=True)
        target = self._targets.get(address)
        if target is not None:
            target.failures = 0
            target.last_peer = peer_id
            target.dial_at = now + NO_ROOM_PAUSE_S * (0.5 + self._rng.random())

    def on_rejected(self, member: Member, address: Address, now: float) -> None:
        """A member had no room for us: wait before dialing again."""
        # Without any link, what rejected us was a link still in its grace period, which ends soon.
        pause_s = NO_ROOM_PAUSE_S if self._active_view.healthy_count(now) else 2 * LINK_GRACE_S
        member.dial_not_before(now + pause_s * (0.5 + self._rng.random()))
        target = self._targets.get(address)
        if target is not None:
            target.dial_at = member.dial_at

    def on_failed(
        self, address: Address, expected: PeerId | None, reason: DropReason | str | None, now: float
    ) -> list[Effect]:
        """No peer, or not the expected one, answered at `address`."""
        self._end_dial((address, expected), now, is_answered=False)
        target = self._targets.get(address)
        if target is None or expected is not None:
            return []
        target.failures += 1
        target.is_self = reason is DropReason.SELF_DIAL
        if not target.is_permanent and target.last_peer is None:  # a hint
            del self._targets[address]
            return []
        is_rare = not target.is_permanent and bool(self._peers.linked)
        longest_s = REDIAL_LONG_LOST_MAX_S if is_rare else REDIAL_MAX_S
        target.dial_at = now + self._backoff_s(target.failures, longest_s)
        if not target.is_permanent:
            return []
        # Report the first failure only.
        return (
            [Emit(DialFailed(address, format_dial_failure(reason)))] if target.failures == 1 else []
        )

    def on_member_failed(self, member: Member, now: float) -> None:
        """`member` did not answer at its address."""
        self._members.on_dial_failed(member)
        is_recent = now - member.changed_at < RECENTLY_LOST_S
        longest_s = REDIAL_MAX_S if is_recent else REDIAL_LONG_LOST_MAX_S
        member.dial_not_before(now + self._backoff_s(member.failures, longest_s))

    def _backoff_s(self, failures: int, longest_s: float) -> float:
        pause_s = min(REDIAL_MIN_S * 2.0 ** min(failures, 16), longest_s)
        return pause_s * (0.5 + 0.5 * self._rng.random())

    # --- schedule -------------------------------------------------------------------------------

    def dial_due(self, now: float) -> list[Effect]:
        """The dials that are due, within the budget."""
        pending = self._pending_count(now)
        shortfall = self._active_view.target_count - self._active_view.healthy_count(now) - pending
        needs_links = self._active_view.needs_links(now)
        if needs_links and not pending:
            shortfall = max(shortfall, 1)  # acquire further links one at a time
        effects = self._dial_targets(now, needs_links=needs_links)
        shortfall -= _dial_count(effects)
        effects += self._dial_disconnected(shortfall, now)
        shortfall -= _dial_count(effects)
        if shortfall > 0:
            effects += self._dial_preferred(shortfall, now, needs_links=needs_links)
            effects += self._dial_discovered(shortfall, now, needs_links=needs_links)
        elif now >= self._self_chosen_at and self._active_view.needs_self_chosen(now):
            effects += self._dial_self_chosen(now)
        elif now >= self._explore_at:
            effects += self._explore(now)
        elif now >= self._rebalance_at:
            effects += self._rebalance(now)
        elif not effects:
            effects += self._dial_nearer(now)
        return effects

    def dial_referral(self, now: float) -> list[Effect]:
        """Dial a referral from a peer that evicted us, if we have room."""
        if not self._active_view.has_room:
            return []
        return self._dial_preferred(1, now, needs_links=False)

    def _pending_count(self, now: float) -> int:
        """Dials in progress that may still be answered. Several addresses of one member count once."""
        return sum(now - started_at < DIAL_PENDING_S for started_at in self._in_progress.values())

    def is_dialing(self, peer_id: PeerId) -> bool:
        """Whether a dial of this member is in progress, at any address."""
        return peer_id in self._dials_per_member

    def _begin_dial(self, dial_key: _DialKey, now: float) -> None:
        if dial_key not in self._in_progress:
            count = self._dials_per_member.get(dial_key[1], 0)
            is_further = count > 0 and dial_key[1] is not None  # counts with the first address
            self._in_progress[dial_key] = -math.inf if is_further else now
            self._dials_per_member[dial_key[1]] = count + 1

    def _dial_targets(self, now: float, *, needs_links: bool) -> list[Effect]:
        due = [
            (address, target)
            for address, target in self._targets.items()
            if target.dial_at <= now
            and not target.is_self
            and self._is_worth_dialing(target, needs_links)
        ]
        due.sort(key=lambda each: (each[1].failures > 0, each[1].dial_at))
        linked_addresses = self._linked_addresses() if due else set()
        effects: list[Effect] = []
        for address, target in due:
            if address not in linked_addresses:
                is_new = target.is_permanent and target.last_peer is None
                effects += self._dial(address, None, now, wants_room=needs_links or is_new)
        return effects

    def _is_worth_dialing(self, target: _DialTarget, needs_links: bool) -> bool:
        """Skip targets already known to be up, unless we need links."""
        if target.last_peer is None:
            return True
        member = self._members.get(target.last_peer)
        is_up = member is not None and member.status in (MemberStatus.UP, MemberStatus.SUSPECT)
        return not self._peers.is_linked(target.last_peer) and (needs_links or not is_up)

    def _linked_addresses(self) -> set[Address]:
        peers = (self._peers.get(peer_id) for peer_id in self._peers.linked)
        return {peer.address for peer in peers if peer is not None}

    def _dial_disconnected(self, shortfall: int, now: float) -> list[Effect]:
        """Redial lost peers; with enough links, one at a time, to discover that a partition has
        healed.
        """
        effects: list[Effect] = []
        for peer_id in list(self._disconnected):
            member = self._members.get(peer_id)
            if member is None or member.status is MemberStatus.LEFT:
                del self._disconnected[peer_id]
            elif member.dial_at <= now:
                # others will report changes
                if shortfall <= 0 and member.status is MemberStatus.UP:
                    del self._disconnected[peer_id]
                    continue
                peer = self._peers.get(peer_id)
                if peer is None or not peer.is_self_chosen:
                    self._note_referred(peer_id)
                effects += self._dial_member(member, now, wants_room=True)
                if _dial_count(effects) >= max(shortfall, 1):
                    break
        return effects

    def _dial_preferred(self, shortfall: int, now: float, *, needs_links: bool) -> list[Effect]:
        effects: list[Effect] = []
        while self._preferred and shortfall > 0:
            member = self._members.get(self._preferred.pop())
            if member is None or member.dial_at > now or member.status is MemberStatus.LEFT:
                continue
            if self._active_view.healthy_count(now) and not self._active_view.matching([member]):
                continue
            if not self._peers.is_linked(member.record.peer_id):
                self._note_referred(member.record.peer_id)
                effects += self._dial_member(member, now, wants_room=needs_links)
                shortfall -= 1
        return effects

    def _dial_discovered(self, shortfall: int, now: float, *, needs_links: bool) -> list[Effect]:
        effects: list[Effect] = []
        # without budget for claimed addresses
        was_linked = not self._unvalidated_budget.available_tokens(now)
        for member in self._active_view.candidates(
            min(shortfall, PENDING_DIALS_LIMIT), now, was_linked=was_linked
        ):
            effects += self._dial_member(member, now, wants_room=needs_links)
        return effects

    def _dial_self_chosen(self, now: float) -> list[Effect]:
        """Dial one member of our own choice; a link chosen by its peer is evicted for it."""
        self._self_chosen_at = now + SELF_CHOSEN_INTERVAL_S * (0.5 + self._rng.random())
        up = [
            each for each in self._active_view.candidates(1, now) if each.status is MemberStatus.UP
        ]
        return [each for member in up for each in self._dial_member(member, now, wants_room=True)]

    def _explore(self, now: float) -> list[Effect]:
        """With enough links, dial one more member, which keeps member state fresh and joins
        partitions that never met.
        """
        self._explore_at = now + EXPLORE_INTERVAL_S * (0.5 + self._rng.random())
        effects: list[Effect] = []
        for member in self._active_view.candidates(1, now):
            is_down = member.status is MemberStatus.DOWN
            if is_down or self._active_view.has_room:
                effects += self._dial_member(member, now, wants_room=is_down)
        return effects

    def _dial_nearer(self, now: float) -> list[Effect]:
        """With enough links, measure the RTT of one more member."""
        candidate = self._proximity.next_candidate(now)
        if candidate is None:
            return []
        addresses = self.addresses_of(candidate.member)
        if not addresses:
            return []
        address = addresses[0]
        is_unvalidated = address != candidate.member.validated_address
        peer_id = candidate.member.record.peer_id
        return self._dial(
            address,
            peer_id,
            now,
            wants_room=False,
            candidate=candidate,
            is_unvalidated=is_unvalidated,
        )

    def probe_done(
        self, address: Address, peer_id: PeerId | None, rtt_s: float | None, now: float
    ) -> None:
        """A dial to measure the RTT ended without a link: too far, or no answer."""
        self._end_dial((address, peer_id), now, is_answered=rtt_s is not None)
        member = None if peer_id is None else self._members.get(peer_id)
        if member is not None:
            self._proximity.on_too_far(member, rtt_s)

    def _rebalance(self, now: float) -> list[Effect]:
        """Dial for a link that fits `distribution` better than an existing one. The existing link
        is evicted when the session is live; the other end evicts one if it is full, because we ask
        for room.
        """
        if self._active_view.has_excess_remote(now):
            self._rebalance_pause_intervals *= REBALANCE_BACKOFF
            candidates = self._active_view.candidates(1, now)
        else:
            self._rebalance_pause_intervals, candidates = REBALANCE_INTERVALS, []
        pause_s = min(
            self._rebalance_pause_intervals * self._config.current.gossip_interval, REBALANCE_MAX_S
        )
        self._rebalance_at = now + pause_s * (0.5 + self._rng.random())
        up = [each for each in candidates if each.status is MemberStatus.UP]
        return [each for member in up for each in self._dial_member(member, now, wants_room=True)]

    def _dial_member(self, member: Member, now: float, *, wants_room: bool) -> list[Effect]:
        """Dial a member at all its addresses at once; behind a NAT also ask for an introduction."""
        addresses, peer_id = self.addresses_of(member), member.record.peer_id
        if peer_id in self._config.current.denied:
            return []
        if member.status is MemberStatus.DOWN and self.is_dialing(peer_id):
            return []  # an address that failed waits until the others have failed
        effects = self._dial_all(member, addresses, now, wants_room=wants_room)
        if not addresses:  # it can only be introduced
            self.on_member_failed(member, now)
        elif not effects:
            return []
        effects += self._hole_punching.ask(member, self.our_addresses, wants_room=wants_room)
        if addresses and not member.was_linked and member.failures == 0:
            peer = self._peers.add(peer_id, member.record, addresses[-1], now)
            if peer.state is PeerState.DISCONNECTED:
                self._peers.transition(peer, PeerTrigger.DIALED)
                # Before the dial, which may fail at once and report that.
                effects.insert(0, PeerTransitioned(peer_id, None, "discovered"))
        return effects

    def renew_path(self, member: Member, now: float) -> list[Effect]:
        """Dials a linked member that acknowledges nothing, if it may be elsewhere: it has another address, or
        its NAT may have changed. A session that results replaces the one of the link."""
        peer = self._peers.get(member.record.peer_id)
        if peer is None or not self._peers.is_linked(peer.peer_id):
            return []
        addresses = self.addresses_of(member)
        if all(each == peer.address for each in addresses) and member.record.introducers is None:
            return []
        effects = self._dial_all(member, addresses, now, wants_room=False)
        return effects + self._hole_punching.ask(member, self.our_addresses, wants_room=False)

    def _dial_all(
        self, member: Member, addresses: tuple[Address, ...], now: float, *, wants_room: bool
    ) -> list[Effect]:
        effects: list[Effect] = []
        for address in addresses:
            is_claimed = address != member.validated_address
            effects += self._dial(
                address,
                member.record.peer_id,
                now,
                wants_room=wants_room,
                is_unvalidated=is_claimed,
            )
        return effects

    def addresses_of(self, member: Member) -> tuple[Address, ...]:
        """The addresses to dial `member` at, another one first after each failure. Those of another LAN may
        be our own.
        """
        addresses = [
            each
            for each in member.addresses
            if each not in self.our_addresses
            and (each == member.validated_address or can_dial_claimed(each, self.our_addresses))
        ]
        first = member.failures % len(addresses) if addresses else 0
        return (*addresses[first:], *addresses[:first])

    # --- introductions --------------------------------------------------------------------------

    def introducers_of(self, member: Member) -> tuple[PeerId, ...]:
        """Who is asked to introduce this node to `member`; empty unless it is behind a NAT."""
        return self._hole_punching.introducers_of(member, self.our_addresses)

    def on_introduction(
        self, member: Member, address: Address, now: float, *, is_transient: bool
    ) -> list[Effect]:
        """A common peer sees `member` at `address`, where it dials us now: dial it there."""
        dial = self._hole_punching.on_introduction(
            member, address, self.our_addresses, now, is_transient=is_transient
        )
        if dial is None:
            return []
        if not dial.purpose.is_transient:
            self._begin_dial((address, dial.expected), now)
        return [dial]

    # --- one dial -------------------------------------------------------------------------------

    def _end_dial(self, dial_key: _DialKey, now: float, *, is_answered: bool) -> None:
        """A dial ended. One that was answered is refunded to the budget of claimed addresses."""
        if self._in_progress.pop(dial_key, None) is not None:
            self._dials_per_member[dial_key[1]] -= 1
            if not self._dials_per_member[dial_key[1]]:
                del self._dials_per_member[dial_key[1]]
        if dial_key in self._unvalidated:
            self._unvalidated.discard(dial_key)
            if is_answered:
                self._unvalidated_budget.refund(now)

    def _dial(
        self,
        address: Address,
        expected: PeerId | None,
        now: float,
        *,
        wants_room: bool,
        is_requested: bool = False,
        candidate: SwapCandidate | None = None,
        is_unvalidated: bool = False,
    ) -> list[Effect]:
        dial_key = (address, expected)
        if self._is_in_progress(dial_key) or address in self.our_addresses or address.port == 0:
            return []
        if not is_requested and (
            self._pending_count(now) >= PENDING_DIALS_LIMIT or not self._dial_budget.try_take(now)
        ):
            return []
        if is_unvalidated and not self._unvalidated_budget.try_take(now):
            self._dial_budget.refund(now)
            return []
        if is_unvalidated:
            self._unvalidated.add(dial_key)
        max_hellos = UNVALIDATED_HELLOS if is_unvalidated else None
        self._begin_dial(dial_key, now)
        purpose = NEIGHBOR if wants_room else LINK
        if candidate is not None:
            purpose = swap(candidate.swap_for, candidate.max_rtt_s)
        return [Dial(address, expected, purpose, max_hellos)]

    def _is_in_progress(self, dial_key: _DialKey) -> bool:
        """Whether this dial would duplicate one in progress. A dial for a member counts for its
        validated address, not for a merely claimed one.
        """
        address, expected = dial_key
        if dial_key in self._in_progress or (address, None) in self._in_progress:
            return True
        target = self._targets.get(address) if expected is None else None
        return target is not None and (address, target.last_peer) in self._in_progress


def _dial_count(effects: list[Effect]) -> int:
    """How many dials and peers to be dialed there are; several addresses of one member count once."""
    dials = [each for each in effects if isinstance(each, Dial)]
    transitions = sum(isinstance(each, PeerTransitioned) for each in effects)
    return transitions + len({each.expected or each.address for each in dials})


def format_dial_failure(reason: DropReason | str | None) -> str:
    """Why a dial failed, for display. A node does not answer unauthenticated peers, so that case
    cannot be told from a host that is down.
    """
    if isinstance(reason, str) and not isinstance(reason, DropReason):
        return reason
    if reason is DropReason.WRONG_PEER:
        return "another node answers there"
    if reason is DropReason.SELF_DIAL:
        return "that is this node"
    if reason is DropReason.MISCONDUCT:
        return "refused here for a while, for misconduct"
    return "no answer: down, or another key or cluster"
