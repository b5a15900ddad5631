"""Whom to knock at, and when: bootstrap addresses, peers that were lost, members heard of.

What must stay true:

- Every address is a hint, from wherever it came. All share one budget: `DIALS_AT_ONCE`, and
  `DIALS_PER_S` in the long run. Only what `views` wants is dialled, and what may show that a
  partition is over.
- Addresses that somebody named are tried for ever, at least every 20 s, and so are the lately lost:
  that is how partitions heal. So are those where peers were in an earlier run, 64 at most and ever more
  rarely: silence says nothing of others while our own network may be down.
- A host name stands for what it resolves to now: where it pointed before is not dialed for it any more.
  Of the named addresses those never tried come first, then those that have waited longest.
- What only a record claims gets a few Hellos, out of a small budget that a member which answers gives
  back, and nothing at all at addresses where no node can be (`reachable`).
- No address is dialled twice at once for the same, nor where we are linked already, nor our own.
- What a record claims stops no dial and delays none: only a session proves that a member is at an
  address, and a dial for a member says nothing of who else may be there.

Mechanism of `membership`, which says what becomes of dials and links.
"""

from __future__ import annotations

import random
from typing import Final, TypeAlias

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import DialFailed, MemberStatus, PeerState
from grapevine_proto.ids import Address, PeerId, literal
from grapevine_proto.overlay.effects import Dial, Effect, Emit, Moved
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.nearness import Look, Nearness
from grapevine_proto.overlay.peers import Happening, PeerTable
from grapevine_proto.overlay.reachable import may_be_dialed
from grapevine_proto.overlay.views import YIELD_AGE_S, Views
from grapevine_proto.ratelimit import TokenBucket

DIALS_AT_ONCE: Final = 16  # that may still be answered
ANSWER_S: Final = 1.0  # after which another is dialled besides
DIALS_BURST: Final = 64  # of dials on our own account: to find new links when most are gone
DIALS_PER_S: Final = 2.0  # in the long run, however few answer
MEND_INTERVALS: Final = 1.0  # gossip intervals between two dials for a link that fits better,
MENDS_SLOWER: Final = 1.2  # so much more after each, for it may be that there is none,
MEND_MAX_S: Final = 60.0  # until it is this
LOOK_AROUND_S: Final = 60.0
HINTS_LIMIT: Final = 16
NAMED_LIMIT: Final = 64  # dials at a peer's word that are told from our own choice
OWN_PAUSE_S: Final = 2.0  # between dials for a link of our own choice in place of another's
REDIAL_MIN_S: Final = 1.0
REDIAL_MAX_S: Final = 20.0  # for bootstrap peers and the lately lost
FORGOTTEN_REDIAL_S: Final = 300.0  # for those lost long ago
LATELY_S: Final = 600.0
REMEMBERED_LIMIT: Final = 64  # addresses of peers that are kept on disk and dialed in the next run
UNPROVED_BURST: Final = 64  # dials where only a record says that a member is,
UNPROVED_PER_S: Final = 0.2  # in the long run, if nobody answers there
UNPROVED_HELLOS: Final = 3  # in one such dial
NO_SUCH_NAME: Final = "the name does not resolve"
FULL_PAUSE_S: Final = 30.0  # before knocking again where there was no room
ADDRESSES_A_NAME: Final = 16  # of those that a host name stands for


_Target: TypeAlias = tuple[Address, PeerId | None]  # where to dial, and whom to expect there


class _Knock:
    """An address to try that no identity is known for. `is_wanted`: somebody named it, so it is
    tried for ever and its failure is told; else it is only remembered from an earlier run."""

    __slots__ = ("dial_at", "failures", "is_ours", "is_wanted", "peer")

    def __init__(self, now: float, *, is_wanted: bool) -> None:
        self.dial_at = now
        self.failures = 0
        self.is_wanted = is_wanted
        self.is_ours = False  # our own address: nothing to gain there
        self.peer: PeerId | None = None  # who answered there last


class Dialling:
    """Decides on dials; `due` gives those that it is time for."""

    def __init__(
        self,
        config: NodeConfig,
        peers: PeerTable,
        members: MemberTable,
        views: Views,
        nearness: Nearness,
        rng: random.Random,
        our_address: Address,
        now: float,
    ) -> None:
        self._peers = peers
        self._members = members
        self._views = views
        self._nearness = nearness
        self._rng = rng
        self.our_addresses: tuple[Address, ...] = (our_address,)
        self._names: dict[str, tuple[Address, ...]] = {}
        self._unresolved: set[str] = set()  # names that are known not to resolve now
        self._ordered: dict[Address, None] = {}  # dialed because somebody asked for it
        self._unproved: set[_Target] = (
            set()
        )  # dials under way where only a record says who is there
        self._claims = TokenBucket(UNPROVED_BURST, UNPROVED_PER_S, now)
        self._knocks: dict[Address, _Knock] = {}
        self._lost: dict[PeerId, None] = {}  # met, and not linked any more: dialled again
        self._named: dict[PeerId, None] = {}  # dialed because a peer named them; the latest last
        self._hints: list[PeerId] = []  # named by whoever had no room for us; the latest last
        self._under_way: dict[_Target, float] = {}  # since when
        self._budget = TokenBucket(DIALS_BURST, DIALS_PER_S, now)
        self._look_around_at = now + LOOK_AROUND_S
        self._own_at = now
        self._mend_at, self._mend_pause = now, MEND_INTERVALS
        self.reconfigure(config, now)

    def reconfigure(self, config: NodeConfig, now: float) -> None:
        """Other settings from now on: new bootstrap peers are knocked at."""
        self._config = config
        for name in set(self._names) - set(config.bootstrap_peers):
            self._release(self._names.pop(name))
            self._unresolved.discard(name)
        for name in config.bootstrap_peers:
            if name not in self._names:
                self._bootstrap(name, now)

    # --- whom there is to dial ------------------------------------------------------------------

    def _bootstrap(self, name: str, now: float) -> None:
        address = literal(name)
        if address is None:
            self._names[name] = ()  # a name: the driver resolves it
        else:
            self._names[name] = (address,)
            self._knocks[address] = _Knock(now, is_wanted=True)

    def resolved(self, name: str, addresses: tuple[Address, ...], now: float) -> list[Effect]:
        """The host name `name` among the bootstrap peers stands for `addresses` now; none: it does not
        resolve, and what it stood for before stays."""
        if name not in self._names:
            return []
        if not addresses:
            is_known = name in self._unresolved
            self._unresolved.add(name)
            return [] if is_known else [Emit(DialFailed(name, NO_SUCH_NAME))]
        self._unresolved.discard(name)
        before = self._names[name]
        self._names[name] = addresses = addresses[:ADDRESSES_A_NAME]
        for address in addresses:
            knock = self._knocks.setdefault(address, _Knock(now, is_wanted=True))
            knock.is_wanted = True
        self._release(before)
        return []

    def _release(self, addresses: tuple[Address, ...]) -> None:
        """A name stands for these no more: those that no other name stands for are dialed no more, or
        only remembered, where somebody answered."""
        named = {address for each in self._names.values() for address in each}
        for address in addresses:
            knock = self._knocks.get(address)
            if knock is None or address in named or address in self._ordered:
                continue
            if knock.peer is None:
                del self._knocks[address]
            else:
                knock.is_wanted = False
        self._trim()

    def _trim(self) -> None:
        """Of what is only remembered keep so many, those that failed least."""
        remembered = [address for address, knock in self._knocks.items() if not knock.is_wanted]
        if len(remembered) > REMEMBERED_LIMIT:
            remembered.sort(key=lambda address: self._knocks[address].failures)
            for address in remembered[REMEMBERED_LIMIT:]:
                del self._knocks[address]

    def remember(self, known: tuple[tuple[PeerId, Address], ...], now: float) -> None:
        """Peers of an earlier run, the best first: worth a dial each, whoever is there now."""
        for peer_id, address in known[:REMEMBERED_LIMIT]:
            if address not in self._knocks:
                knock = self._knocks[address] = _Knock(now, is_wanted=False)
                knock.peer = peer_id
        self._trim()

    def known(self) -> tuple[tuple[PeerId, Address], ...]:
        """Where peers are for the next run, the best first: those linked, those that were lately, and
        what is remembered from before. What only a record claims is not among it."""
        proved = [peer for peer in self._peers if peer.is_proved]
        linked = [peer for peer in proved if self._peers.is_linked(peer.peer_id)]
        others = [peer for peer in proved if not self._peers.is_linked(peer.peer_id)]
        linked.sort(key=lambda peer: peer.linked_at or 0.0)
        others.sort(key=lambda peer: -peer.silent_since)
        known = {peer.address: peer.peer_id for peer in (*linked, *others)}
        remembered = sorted(self._knocks.items(), key=lambda each: each[1].failures)
        for address, knock in remembered:
            if knock.peer is not None:
                known.setdefault(address, knock.peer)
        return tuple((peer_id, address) for address, peer_id in known.items())[:REMEMBERED_LIMIT]

    def want(self, address: Address, now: float) -> list[Effect]:
        """Knock at `address` now, because somebody asked for it."""
        if len(self._knocks) < self._config.limits.addresses:
            self._ordered[address] = None
            self._knocks[address] = _Knock(now, is_wanted=True)
        return self._dial(address, None, now, is_asking=True, is_ordered=True)

    def lost(self, member: Member, now: float) -> None:
        """A member we were linked to is not any more: try it again, soon."""
        self._lost[member.record.peer_id] = None
        self._leave_alone(member, now + REDIAL_MIN_S * (0.5 + self._rng.random()))

    def let_go(self, member: Member, now: float) -> None:
        """It had to make room for somebody else: not to be dialled again at once."""
        self.found(member.record.peer_id)
        self._leave_alone(member, now + FULL_PAUSE_S * (0.5 + self._rng.random()))

    def _leave_alone(self, member: Member, until: float) -> None:
        """Do not dial it before, neither by its record nor where it answered."""
        member.dial_at = until
        for knock in self._knocks.values():
            if knock.peer == member.record.peer_id:
                knock.dial_at = until

    def hint(self, peer_ids: list[PeerId]) -> None:
        """These are linked elsewhere, so they are alive: to be dialled before others, the last first."""
        self._hints = [*self._hints, *reversed(peer_ids)][-HINTS_LIMIT:]

    def has_chosen(self, peer_id: PeerId) -> bool:
        """Whether a dial of it was our own choice: not because a peer named it, nor because it was
        linked by its own choice before. Else a peer could choose our links for us."""
        return peer_id not in self._named

    def _note_named(self, peer_id: PeerId) -> None:
        self._named.pop(peer_id, None)
        self._named[peer_id] = None
        if len(self._named) > NAMED_LIMIT:
            del self._named[next(iter(self._named))]

    def found(self, peer_id: PeerId) -> None:
        """It is linked, or gone for good: no need to look for it."""
        self._lost.pop(peer_id, None)
        self._named.pop(peer_id, None)

    def forget(self, peer_id: PeerId) -> None:
        """Look for it no more, nor knock where it answered, unless that address is a bootstrap one."""
        self.found(peer_id)
        ours = set(self._config.bootstrap_peers)
        for address, knock in list(self._knocks.items()):
            if knock.peer == peer_id and str(address) not in ours:
                del self._knocks[address]

    # --- what became of it ----------------------------------------------------------------------

    def answered(
        self, address: Address, expected: PeerId | None, peer_id: PeerId, now: float
    ) -> None:
        """Our dial ended with a session with `peer_id`. Should no link come of it, because there is no
        more room here, we need not knock again soon."""
        self._end((address, expected), now, is_answered=True)
        knock = self._knocks.get(address)
        if knock is not None:
            knock.failures = 0
            knock.peer = peer_id
            knock.dial_at = now + FULL_PAUSE_S * (0.5 + self._rng.random())

    def turned_away(self, member: Member, address: Address, now: float) -> None:
        """There was no room at `address`: wait before trying again."""
        # Whoever is alone asked for a link that was too young to be let go: it grows older.
        pause_s = FULL_PAUSE_S if self._views.sound(now) else 2 * YIELD_AGE_S
        member.dial_at = now + pause_s * (0.5 + self._rng.random())
        knock = self._knocks.get(address)
        if knock is not None:
            knock.dial_at = member.dial_at

    def failed(
        self, address: Address, expected: PeerId | None, why: DropReason | str | None, now: float
    ) -> list[Effect]:
        """Nobody, or not the one expected, answered at `address`."""
        self._end((address, expected), now, is_answered=False)
        knock = self._knocks.get(address)
        if knock is None or expected is not None:
            return []
        knock.failures += 1
        knock.is_ours = why is DropReason.MYSELF
        is_rare = not knock.is_wanted and bool(self._peers.linked)
        longest_s = FORGOTTEN_REDIAL_S if is_rare else REDIAL_MAX_S
        knock.dial_at = now + self._pause_s(knock.failures, longest_s)
        if not knock.is_wanted:
            return []
        # Said once, not at every attempt.
        return [Emit(DialFailed(address, words_for(why)))] if knock.failures == 1 else []

    def failed_member(self, member: Member, now: float) -> None:
        """`member` did not answer at its address."""
        self._members.failed(member)
        lately = now - member.changed_at < LATELY_S
        longest_s = REDIAL_MAX_S if lately else FORGOTTEN_REDIAL_S
        member.dial_at = now + self._pause_s(member.failures, longest_s)

    def _pause_s(self, failures: int, longest_s: float) -> float:
        pause_s = min(REDIAL_MIN_S * 2.0 ** min(failures, 16), longest_s)
        return pause_s * (0.5 + 0.5 * self._rng.random())

    # --- when -----------------------------------------------------------------------------------

    def due(self, now: float) -> list[Effect]:
        """The dials that it is time for, within the budget."""
        young = self._young(now)
        short = self._views.wanted - self._views.sound(now) - young
        is_in_need = self._views.is_in_need(now)
        if is_in_need and not young:
            short = max(short, 1)  # the rest of our links, one at a time
        effects = self._knock_again(now, is_in_need=is_in_need)
        short -= len(effects)
        effects += self._dial_lost(short, now)
        short -= len(effects)
        if short > 0:
            effects += self._dial_hinted(short, now, is_in_need=is_in_need)
            effects += self._dial_discovered(short, now, is_in_need=is_in_need)
        elif now >= self._own_at and self._views.lacks_own(now):
            effects += self._dial_own(now)
        elif now >= self._look_around_at:
            effects += self._look_around(now)
        elif now >= self._mend_at:
            effects += self._mend(now)
        elif not effects:
            effects += self._look_nearer(now)
        return effects

    def take_offer(self, now: float) -> list[Effect]:
        """Whoever let us go named one who has room: take it, if we have room ourselves."""
        if not self._views.has_room:
            return []
        return self._dial_hinted(1, now, is_in_need=False)

    def _young(self, now: float) -> int:
        """Dials under way that may be expected to be answered yet."""
        return sum(now - began_at < ANSWER_S for began_at in self._under_way.values())

    def _knock_again(self, now: float, *, is_in_need: bool) -> list[Effect]:
        due = [
            (address, knock)
            for address, knock in self._knocks.items()
            if knock.dial_at <= now
            and not knock.is_ours
            and self._is_worth_a_knock(knock, is_in_need)
        ]
        due.sort(key=lambda each: (each[1].failures > 0, each[1].dial_at))
        reached = self._linked_addresses() if due else set()
        effects: list[Effect] = []
        for address, knock in due:
            if address not in reached:
                is_new = knock.is_wanted and knock.peer is None
                effects += self._dial(address, None, now, is_asking=is_in_need or is_new)
        return effects

    def _is_worth_a_knock(self, knock: _Knock, is_in_need: bool) -> bool:
        """Where somebody answered that we know to be up, there are others to dial as well."""
        if knock.peer is None:
            return True
        member = self._members.get(knock.peer)
        is_up = member is not None and member.status in (MemberStatus.UP, MemberStatus.SUSPECT)
        return not self._peers.is_linked(knock.peer) and (is_in_need or not is_up)

    def _linked_addresses(self) -> set[Address]:
        peers = (self._peers.get(peer_id) for peer_id in self._peers.linked)
        return {peer.address for peer in peers if peer is not None}

    def _dial_lost(self, short: int, now: float) -> list[Effect]:
        """With links enough, one at a time, for what it shows: that a partition is over."""
        effects: list[Effect] = []
        for peer_id in list(self._lost):
            member = self._members.get(peer_id)
            if member is None or member.status is MemberStatus.LEFT:
                del self._lost[peer_id]
            elif member.dial_at <= now:
                if short <= 0 and member.status is MemberStatus.UP:  # others hear of it
                    del self._lost[peer_id]
                    continue
                peer = self._peers.get(peer_id)
                if peer is None or not peer.is_dialed:
                    self._note_named(peer_id)
                effects += self._dial_member(member, now, is_asking=True)
                if len(effects) >= max(short, 1):
                    break
        return effects

    def _dial_hinted(self, short: int, now: float, *, is_in_need: bool) -> list[Effect]:
        effects: list[Effect] = []
        while self._hints and short > 0:
            member = self._members.get(self._hints.pop())
            if member is None or member.dial_at > now or member.status is MemberStatus.LEFT:
                continue
            if self._views.sound(now) and not self._views.fitting([member]):
                continue
            if not self._peers.is_linked(member.record.peer_id):
                self._note_named(member.record.peer_id)
                effects += self._dial_member(member, now, is_asking=is_in_need)
                short -= 1
        return effects

    def _dial_discovered(self, short: int, now: float, *, is_in_need: bool) -> list[Effect]:
        effects: list[Effect] = []
        is_proved = not self._claims.whole(now)  # others would have to wait
        for member in self._views.to_link(min(short, DIALS_AT_ONCE), now, is_proved=is_proved):
            effects += self._dial_member(member, now, is_asking=is_in_need)
        return effects

    def _dial_own(self, now: float) -> list[Effect]:
        """Choose one member ourselves, for which one of those that chose us gives way."""
        self._own_at = now + OWN_PAUSE_S * (0.5 + self._rng.random())
        up = [each for each in self._views.to_link(1, now) if each.status is MemberStatus.UP]
        return [each for member in up for each in self._dial_member(member, now, is_asking=True)]

    def _look_around(self, now: float) -> list[Effect]:
        """With links enough: see whether one more member is there, so that what is known of members
        stays fresh, and parts that never met find each other."""
        self._look_around_at = now + LOOK_AROUND_S * (0.5 + self._rng.random())
        effects: list[Effect] = []
        for member in self._views.to_link(1, now):
            is_down = member.status is MemberStatus.DOWN
            if is_down or self._views.has_room:
                effects += self._dial_member(member, now, is_asking=is_down)
        return effects

    def _look_nearer(self, now: float) -> list[Effect]:
        """With links enough: see how near one more member is."""
        look = self._nearness.look(now)
        if look is None:
            return []
        address = self.address_of(look.member)
        if address is None:
            return []
        is_unproved = address != look.member.proved
        peer_id = look.member.record.peer_id
        return self._dial(
            address, peer_id, now, is_asking=False, look=look, is_unproved=is_unproved
        )

    def looked(
        self, address: Address, peer_id: PeerId | None, rtt_s: float | None, now: float
    ) -> None:
        """Our look at who is there led to nothing: too far, or no answer, of which no more is made."""
        self._end((address, peer_id), now, is_answered=rtt_s is not None)
        member = None if peer_id is None else self._members.get(peer_id)
        if member is not None:
            self._nearness.seen(member, rtt_s)

    def _mend(self, now: float) -> list[Effect]:
        """Dial for a link that fits `distribution` better than one that we have, which goes for it: here
        when the session is live, and there, where it is full as well, because we ask."""
        if self._views.has_surplus(now):
            self._mend_pause *= MENDS_SLOWER
            found = self._views.to_link(1, now)
        else:
            self._mend_pause, found = MEND_INTERVALS, []
        pause_s = min(self._mend_pause * self._config.gossip_interval, MEND_MAX_S)
        self._mend_at = now + pause_s * (0.5 + self._rng.random())
        up = [each for each in found if each.status is MemberStatus.UP]
        return [each for member in up for each in self._dial_member(member, now, is_asking=True)]

    def _dial_member(self, member: Member, now: float, *, is_asking: bool) -> list[Effect]:
        address, peer_id = self.address_of(member), member.record.peer_id
        if address is None or peer_id in self._config.denied:
            return []
        is_unproved = address != member.proved
        effects = self._dial(address, peer_id, now, is_asking=is_asking, is_unproved=is_unproved)
        if effects and not member.is_met and member.failures == 0:
            peer = self._peers.add(peer_id, member.record, address, now)
            if peer.state is PeerState.DISCONNECTED:
                self._peers.move(peer, Happening.DIALLED)
                effects.append(Moved(peer_id, None, "discovered"))
        return effects

    def address_of(self, member: Member) -> Address | None:
        """Where to dial `member`, another of its addresses after each failure; None: nowhere."""
        addresses = [
            each
            for each in member.addresses
            if each == member.proved or may_be_dialed(each, self.our_addresses)
        ]
        return addresses[member.failures % len(addresses)] if addresses else None

    def _end(self, target: _Target, now: float, *, is_answered: bool) -> None:
        """A dial is over. One that was answered costs claims nothing: it was true."""
        self._under_way.pop(target, None)
        if target in self._unproved:
            self._unproved.discard(target)
            if is_answered:
                self._claims.give_back(now)

    def _dial(
        self,
        address: Address,
        expected: PeerId | None,
        now: float,
        *,
        is_asking: bool,
        is_ordered: bool = False,
        look: Look | None = None,
        is_unproved: bool = False,
    ) -> list[Effect]:
        target = (address, expected)
        if self._is_under_way(target) or address in self.our_addresses or address.port == 0:
            return []
        if not is_ordered and (self._young(now) >= DIALS_AT_ONCE or not self._budget.take(now)):
            return []
        if is_unproved and not self._claims.take(now):
            self._budget.give_back(now)
            return []
        if is_unproved:
            self._unproved.add(target)
        hellos = UNPROVED_HELLOS if is_unproved else None
        self._under_way[target] = now
        if look is not None:
            instead, nearer_than_s = look.instead, look.nearer_than_s
            return [Dial(address, expected, False, instead, nearer_than_s, hellos=hellos)]
        return [Dial(address, expected, is_asking, hellos=hellos)]

    def _is_under_way(self, target: _Target) -> bool:
        """Whether that would be dialled twice at once. A dial for one member stands for a dial of the
        address where that member proved to be, but not where it only claims to be."""
        address, expected = target
        if target in self._under_way or (address, None) in self._under_way:
            return True
        knock = self._knocks.get(address) if expected is None else None
        return knock is not None and (address, knock.peer) in self._under_way


def words_for(why: DropReason | str | None) -> str:
    """For people: why a dial came to nothing. Silence is all that a stranger gets."""
    if isinstance(why, str) and not isinstance(why, DropReason):
        return why
    if why is DropReason.WRONG_PEER:
        return "another node answers there"
    if why is DropReason.MYSELF:
        return "that is this node"
    if why is DropReason.MISCONDUCT:
        return "refused here for a while, for misconduct"
    return "no answer: down, or another key or cluster"
