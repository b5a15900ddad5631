"""Whom to knock at, and when: bootstrap addresses, peers that were lost, members heard of.

What must stay true:

- Every address is a hint, from wherever it came. All share one budget: `DIALS_AT_ONCE`, never more
  than `max_peers` links in all.
- Addresses that somebody named are tried for ever, at least every 20 s, and so are the lately lost:
  that is how partitions heal. What is only remembered from an earlier run is given up after a minute.
- No address is dialled twice at once, nor where we are linked already, nor our own.

Mechanism of `membership`, which says what becomes of dials and links.
"""

from __future__ import annotations

import random
from typing import Final

from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_proto.events import DialFailed, MemberStatus, PeerState
from grapevine_proto.ids import Address, PeerId, split_host_port
from grapevine_proto.overlay.effects import Dial, Effect, Emit, Moved
from grapevine_proto.overlay.members import Member, MemberTable
from grapevine_proto.overlay.peers import Happening, PeerTable
from grapevine_proto.overlay.selection import links_wanted

DIALS_AT_ONCE: Final = 16
REDIAL_MIN_S: Final = 1.0
REDIAL_MAX_S: Final = 20.0  # for bootstrap peers and the lately lost
FORGOTTEN_REDIAL_S: Final = 300.0  # for those lost long ago
LATELY_S: Final = 600.0
REMEMBERED_TRIES: Final = 6  # at an address of an earlier run, a minute or so
FULL_PAUSE_S: Final = 30.0  # before knocking again where there was no room
ADDRESSES_A_NAME: Final = 16  # of those that a host name stands for


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
        rng: random.Random,
        our_address: Address,
        now: float,
    ) -> None:
        self._peers = peers
        self._members = members
        self._rng = rng
        self._our_address = our_address
        self._names: dict[str, tuple[Address, ...]] = {}
        self._knocks: dict[Address, _Knock] = {}
        self._lost: dict[PeerId, None] = {}  # met, and not linked any more: dialled again
        self._under_way: dict[Address, PeerId | None] = {}
        self.reconfigure(config, now)

    def reconfigure(self, config: NodeConfig, now: float) -> None:
        """Other settings from now on: new bootstrap peers are knocked at."""
        self._config = config
        for name in config.bootstrap_peers:
            if name not in self._names:
                self._bootstrap(name, now)

    # --- whom there is to dial ------------------------------------------------------------------

    def _bootstrap(self, name: str, now: float) -> None:
        host, port = split_host_port(name)
        try:
            address = Address.parse(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except ValueError:
            self._names[name] = ()  # a name: the driver resolves it
        else:
            self._names[name] = (address,)
            self._knocks[address] = _Knock(now, is_wanted=True)

    def resolved(self, name: str, addresses: tuple[Address, ...], now: float) -> None:
        """The host name `name` among the bootstrap peers stands for `addresses` now."""
        if name in self._names:
            self._names[name] = addresses = addresses[:ADDRESSES_A_NAME]
            for address in addresses:
                self._knocks.setdefault(address, _Knock(now, is_wanted=True))

    def remember(self, known: tuple[tuple[PeerId, Address], ...], now: float) -> None:
        """Peers of an earlier run: worth a knock each, whoever is there now."""
        for _, address in known[: self._config.limits.dials]:
            self._knocks.setdefault(address, _Knock(now, is_wanted=False))

    def want(self, address: Address, now: float) -> list[Effect]:
        """Knock at `address` now, because somebody asked for it."""
        if len(self._knocks) < self._config.limits.addresses:
            self._knocks[address] = _Knock(now, is_wanted=True)
        return self._dial(address, None)

    def lost(self, member: Member, now: float) -> None:
        """A member we were linked to is not any more: try it again, soon."""
        self._lost[member.record.peer_id] = None
        member.dial_at = now + REDIAL_MIN_S * (0.5 + self._rng.random())

    def found(self, peer_id: PeerId) -> None:
        """It is linked, or gone for good: no need to look for it."""
        self._lost.pop(peer_id, None)

    def forget(self, peer_id: PeerId) -> None:
        """Look for it no more, nor knock where it answered, unless that address is a bootstrap one."""
        self.found(peer_id)
        ours = set(self._config.bootstrap_peers)
        for address, knock in list(self._knocks.items()):
            if knock.peer == peer_id and str(address) not in ours:
                del self._knocks[address]

    # --- what became of it ----------------------------------------------------------------------

    def answered(self, address: Address, peer_id: PeerId) -> None:
        """Our knock at `address` ended with a session with `peer_id`."""
        self._under_way.pop(address, None)
        knock = self._knocks.get(address)
        if knock is not None:
            knock.failures = 0
            knock.peer = peer_id

    def turned_away(self, member: Member, address: Address, now: float) -> None:
        """There was no room at `address`: wait before trying again."""
        member.dial_at = now + FULL_PAUSE_S * (0.5 + self._rng.random())
        knock = self._knocks.get(address)
        if knock is not None:
            knock.dial_at = member.dial_at

    def failed(self, address: Address, why: DropReason | None, now: float) -> list[Effect]:
        """Nobody, or not the one expected, answered at `address`."""
        self._under_way.pop(address, None)
        knock = self._knocks.get(address)
        if knock is None:
            return []
        knock.failures += 1
        knock.is_ours = why is DropReason.MYSELF
        knock.dial_at = now + self._pause_s(knock.failures, REDIAL_MAX_S)
        if not knock.is_wanted:
            if knock.failures >= REMEMBERED_TRIES:
                del self._knocks[address]
            return []
        # Said once, not at every attempt.
        return [Emit(DialFailed(address, words_for(why)))] if knock.failures == 1 else []

    def failed_member(self, member: Member, now: float) -> None:
        """`member` did not answer at its address."""
        member.failures += 1
        lately = now - member.changed_at < LATELY_S
        longest_s = REDIAL_MAX_S if lately else FORGOTTEN_REDIAL_S
        member.dial_at = now + self._pause_s(member.failures, longest_s)

    def _pause_s(self, failures: int, longest_s: float) -> float:
        pause_s = min(REDIAL_MIN_S * 2.0 ** min(failures, 16), longest_s)
        return pause_s * (0.5 + 0.5 * self._rng.random())

    # --- when -----------------------------------------------------------------------------------

    def due(self, now: float) -> list[Effect]:
        """The dials that it is time for, within the budget."""
        linked = len(self._peers.linked)
        room = min(DIALS_AT_ONCE, self._config.max_peers - linked) - len(self._under_way)
        if room <= 0:
            return []
        effects = self._knock_again(room, now)
        effects += self._dial_lost(room - len(effects), now)
        wanted = links_wanted(len(self._members), self._config.max_peers)
        short = wanted - linked - len(self._under_way)
        return effects + self._dial_discovered(min(room - len(effects), short), now)

    def _knock_again(self, room: int, now: float) -> list[Effect]:
        due = [
            address
            for address, knock in self._knocks.items()
            if knock.dial_at <= now
            and not knock.is_ours
            and not (knock.peer and self._peers.is_linked(knock.peer))
        ]
        reached = self._linked_addresses() if due else set()
        effects: list[Effect] = []
        for address in due:
            if len(effects) < room and address not in reached:
                effects += self._dial(address, None)
        return effects

    def _linked_addresses(self) -> set[Address]:
        peers = (self._peers.get(peer_id) for peer_id in self._peers.linked)
        return {peer.address for peer in peers if peer is not None}

    def _dial_lost(self, room: int, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for peer_id in list(self._lost):
            if len(effects) >= room:
                break
            member = self._members.get(peer_id)
            if member is None or member.status is MemberStatus.LEFT:
                del self._lost[peer_id]
            elif member.dial_at <= now:
                effects += self._dial_member(member, now)
        return effects

    def _dial_discovered(self, room: int, now: float) -> list[Effect]:
        if room <= 0:
            return []
        effects: list[Effect] = []
        for member in self._members.draw(4 * room, self._rng):
            if (
                member.status is MemberStatus.LEFT
                or member.dial_at > now
                or self._peers.is_linked(member.record.peer_id)
            ):
                continue
            effects += self._dial_member(member, now)
            if len(effects) >= room:
                break
        return effects

    def _dial_member(self, member: Member, now: float) -> list[Effect]:
        addresses = member.record.addresses
        peer_id = member.record.peer_id
        if not addresses or peer_id in self._config.denied:
            return []
        address = addresses[member.failures % len(addresses)]
        effects = self._dial(address, peer_id)
        if effects and not member.is_met and member.failures == 0:
            peer = self._peers.add(peer_id, member.record, address, now)
            if peer.state is PeerState.DISCONNECTED:
                self._peers.move(peer, Happening.DIALLED)
                effects.append(Moved(peer_id, None, "discovered"))
        return effects

    def _dial(self, address: Address, expected: PeerId | None) -> list[Effect]:
        if address in self._under_way or address == self._our_address or address.port == 0:
            return []
        self._under_way[address] = expected
        return [Dial(address, expected)]


def words_for(why: DropReason | None) -> str:
    """For people: why a dial came to nothing. Silence is all that a stranger gets."""
    if why is DropReason.WRONG_PEER:
        return "another node answers there"
    if why is DropReason.MYSELF:
        return "that is this node"
    return "no answer: down, or another key or cluster"
