"""Known bugs of this project and of other systems: with each enabled, the swarm finds it.

Invariants:

- A bug is enabled by changing one function of the node, never a check of the swarm. Without any,
  the same seeds find nothing (`test_swarm`).
- A bug that no seed finds any more means that a promise is no longer checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from grapevine_proto import ClusterKey, EpidemicConfig, PeerId, PeerState
from grapevine_proto.config.sections import StateConfig
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import Address
from grapevine_proto.overlay import peers
from grapevine_proto.overlay.broadcast import ihave
from grapevine_proto.overlay.broadcast.broadcast import Broadcast
from grapevine_proto.overlay.broadcast.epidemic import Epidemic
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan
from grapevine_proto.overlay.membership.membership import Membership
from grapevine_proto.overlay.peers import PeerTrigger, TimeBounds
from grapevine_proto.overlay.state.keyed_state import KeyedState
from grapevine_proto.overlay.state.owner_map import Change, Entry, OwnerMap
from grapevine_proto.overlay.store.message_cache import _CachedRumor
from grapevine_proto.overlay.store.sequence_tracker import SequenceTracker
from grapevine_proto.overlay.swim.detector import Detector
from grapevine_proto.sim import Network, SimulatedNode
from grapevine_proto.sim.node import START_UNIX_S
from grapevine_proto.token_bucket import TokenBucket
from grapevine_proto.transport.handshake.responder import Responder
from grapevine_proto.transport.session.replay_window import ReplayWindow
from grapevine_proto.transport.session.session import Session
from grapevine_proto.transport.session.sessions import Sessions
from grapevine_proto.transport.transport import Transport
from grapevine_proto.wire import codec, message_codec, signed
from grapevine_proto.wire.entry_terms import Version
from tests.swarm import Mix, swarm

SEEDS: Final = range(16)  # tried in turn until one finds the bug
Patch = pytest.MonkeyPatch


def partial_deltas_count(patch: Patch) -> None:
    """A part of a map moves its version, so nobody sends the rest (quickwit-oss/chitchat#121)."""

    def merge(self: OwnerMap, entries: Iterable[Entry]) -> list[Change] | None:
        newer = sorted((e for e in entries if e.version > self.version), key=lambda e: e.version)
        return self._replace(self.entries | {e.key: e for e in newer}, newer[-1]) if newer else None

    def above(self: OwnerMap, version: Version) -> list[Entry]:
        newer = [each for each in self.entries.values() if each.version > version]
        return sorted(newer, key=lambda each: each.version)[-1:]

    patch.setattr(OwnerMap, "merge", merge)
    patch.setattr(OwnerMap, "above", above)


def deleted_keys_are_forgotten(patch: Patch) -> None:
    """A newer version of a map does not keep an older entry out."""
    patch.setattr(KeyedState, "is_newer", lambda self, entry: True)

    def apply(self: OwnerMap, entry: Entry) -> list[Change] | None:
        before = self.entries.get(entry.key)
        self.entries[entry.key] = entry
        self._finish(entry, self.keys, self.bytes)
        return [Change(before, entry)]

    patch.setattr(OwnerMap, "apply", apply)


def replay_window_off(patch: Patch) -> None:
    patch.setattr(ReplayWindow, "is_fresh", lambda self, counter: True)


def dedup_forgets(patch: Patch) -> None:
    """Every few messages the tracker forgets what it has seen."""
    original_add = SequenceTracker.add

    def forget(
        self: SequenceTracker, first: int, last: int, now: float, *, is_loss: bool = True
    ) -> None:
        original_add(self, first, last, now, is_loss=is_loss)
        if last % 4 == 0:
            self.high = last - 2

    patch.setattr(SequenceTracker, "add", forget)


def trackers_are_not_saved(patch: Patch) -> None:
    saved = Engine.snapshot

    def forget(self: Engine, now: float) -> NodeState:
        return replace(saved(self, now), streams=())

    patch.setattr(Engine, "snapshot", forget)


def skipped_count_as_seen(patch: Patch) -> None:
    """Skipped sequences count as seen."""
    original_add = SequenceTracker.add

    def jump(
        self: SequenceTracker, first: int, last: int, now: float, *, is_loss: bool = True
    ) -> None:
        original_add(self, first, last, now, is_loss=is_loss)
        self.gaps = []

    patch.setattr(SequenceTracker, "add", jump)


def nonce_used_twice(patch: Patch) -> None:
    seal = Session.seal

    def again(self: Session, plaintext: bytes, now: float) -> bytes:
        if self._next_counter % 50 == 49:
            self._next_counter -= 1
        return seal(self, plaintext, now)

    patch.setattr(Session, "seal", again)


def epoch_not_bumped(patch: Patch) -> None:
    """A restarted node numbers its messages from one again, in its previous epoch."""

    def keep(self: SimulatedNode, saved: NodeState, at: float) -> int:
        return saved.epoch or START_UNIX_S

    patch.setattr(SimulatedNode, "next_epoch", keep)


def nothing_ages(patch: Patch) -> None:
    """The age of cached rumors does not grow, so repair delivers expired messages again."""
    patch.setattr(_CachedRumor, "age_now_ms", lambda self, now: self.age_ms)


def forged_copy_marks_an_id_as_seen(patch: Patch) -> None:
    rejection = Broadcast._rejection

    def reject(self: Broadcast, copy: Any, *args: Any) -> Any:
        report_of, now = rejection(self, copy, *args), args[-1]
        if report_of is DropReason.BAD_SIGNATURE:
            stream = copy.rumor.stream
            state = self._store._states.get(stream) or self._store._open(stream, now)
            state.tracker.add(copy.rumor.first, copy.rumor.last, now)
        return report_of

    patch.setattr(Broadcast, "_rejection", reject)


def signatures_not_checked(patch: Patch) -> None:
    patch.setattr(signed.Rumor, "is_authentic", lambda self, cluster: True)


def hops_not_limited(patch: Patch) -> None:
    original = Epidemic.on_new_rumor

    def always(self: Epidemic, rumor: NewRumor, now: float) -> PushPlan:
        return original(self, rumor._replace(hops=0), now)

    patch.setattr(Epidemic, "on_new_rumor", always)


def sessions_retire_at_once(patch: Patch) -> None:
    """A replaced session receives nothing more, although packets are in flight on it."""
    patch.setattr(Sessions, "retire", lambda self, session, now: self._set_live_deadline(now))


def illegal_transition(patch: Patch) -> None:
    """A stale peer that is heard again is treated as one being dialed."""
    table = dict(peers.TRANSITIONS)
    table[PeerState.STALE, PeerTrigger.PACKET_RECEIVED] = PeerState.CONNECTING
    table[PeerState.CONNECTING, PeerTrigger.MISSED_HEARTBEATS] = PeerState.STALE
    patch.setattr(peers, "TRANSITIONS", table)


def lazy_push_requests_from_every_source(patch: Patch) -> None:
    patch.setattr(ihave, "IWANT_TIMEOUT_BOUNDS", TimeBounds(0.0, 0.0))


def tokens_not_charged(patch: Patch) -> None:
    patch.setattr(TokenBucket, "try_take", lambda self, now, tokens=1.0: True)


def stall_is_not_credited(patch: Patch) -> None:
    """A suspended node takes its own stall for the silence of others."""
    patch.setattr(Membership, "_shift_deadlines", lambda self, late_s, now: None)


def suspects_cannot_refute(patch: Patch) -> None:
    """Refutations and packets of a suspect have no effect."""
    patch.setattr(Detector, "on_packet", lambda self, peer_id, now: [])
    patch.setattr(Detector, "on_new_incarnation", lambda self, member, now: [])


def first_peer_is_pushed_again(patch: Patch) -> None:
    """A message published without links goes to the first peer, and a little later once more. (Our
    own bug.)
    """
    patch.setattr(Epidemic, "on_late_delivery", lambda self, key, peer_id: None)


def hellos_create_state(patch: Patch) -> None:
    """Every Hello creates a peer limit entry."""
    receive = Transport._on_initial

    def keep(
        self: Transport, packet: Any, datagram: bytes, source: Address, now: float
    ) -> Iterator[Any]:
        yield from receive(self, packet, datagram, source, now)
        if isinstance(packet, codec.Hello):
            self.links.peer_limits.get_or_create(PeerId(packet.session_id.ljust(32, b"?")), now)

    patch.setattr(Transport, "_on_initial", keep)


def keys_are_printed(patch: Patch) -> None:
    patch.setattr(ClusterKey, "__repr__", lambda self: f"ClusterKey({self._secret.hex()})")


def unauthenticated_peers_are_answered(patch: Patch) -> None:
    patch.setattr(Responder, "_key_of", lambda self, datagram: self._keys[0])


def malformed_messages_raise(patch: Patch) -> None:
    patch.setattr(message_codec, "UNPACK_ERRORS", ())


@dataclass(frozen=True)
class Bug:
    """How to enable a bug, the text by which it is found, and the mix in which it shows."""

    enable: Callable[[Patch], None]
    found_as: str
    actions: tuple[str, ...] = ()
    network: Network = Network()  # noqa: RUF009  frozen
    config: tuple[tuple[str, Any], ...] = ()
    duration_s: float = 20.0
    nodes: int = 6
    has_malicious: bool = False
    is_calm: bool = False

    def adapt(self, mix: Mix) -> None:
        """Change the mix so that this bug can show; everything else stays as drawn."""
        mix.nodes, mix.network, mix.duration_s = self.nodes, self.network, self.duration_s
        mix.config = mix.config.replace(
            strategy="epidemic", lazy_push=True, message_dedup_ttl=300.0
        ).replace(**dict(self.config))
        mix.has_malicious = self.has_malicious
        mix.actions = {"broadcast": 5.0, "send_direct": 3.0} | dict.fromkeys(self.actions, 2.0)


BUGS: Final = (
    Bug(replay_window_off, "comes again", network=Network(duplication=0.3)),
    Bug(dedup_forgets, "times or to one peer twice", ("burst",)),  # whichever is found first
    Bug(trackers_are_not_saved, "times", ("crash",)),
    Bug(
        skipped_count_as_seen,
        "never received or p99 is inf",  # whichever is found first
        ("crash", "suspend", "burst"),
        Network(loss=0.2),
        duration_s=30.0,
        nodes=4,
    ),
    Bug(nonce_used_twice, "nonce twice"),
    Bug(epoch_not_bumped, "1: ", ("crash",), nodes=4),
    Bug(
        nothing_ages,
        "after it was sent",
        ("partition", "heal"),
        config=(("message_dedup_ttl", 5.0),),
        duration_s=80.0,
        nodes=4,
    ),
    Bug(forged_copy_marks_an_id_as_seen, "never received", ("forge",), has_malicious=True),
    Bug(signatures_not_checked, "1: ", ("forge",), has_malicious=True),
    Bug(
        hops_not_limited,
        "hops",
        nodes=10,
        config=(("epidemic", EpidemicConfig(hops=2)), ("fanout", 2)),
    ),
    Bug(sessions_retire_at_once, "without faults", duration_s=260.0, nodes=4),
    Bug(illegal_transition, "7: ", ("suspend", "partition", "heal")),
    Bug(
        lazy_push_requests_from_every_source,
        "two peers at once",
        nodes=10,
        network=Network(loss=0.2),
    ),
    Bug(tokens_not_charged, "in a second", ("flood",), has_malicious=True),
    Bug(stall_is_not_credited, "9: ", ("suspend",), duration_s=60.0, nodes=3),
    Bug(suspects_cannot_refute, "", ("suspend",), duration_s=60.0),
    Bug(first_peer_is_pushed_again, "6: ", ("crash", "burst"), duration_s=40.0, nodes=4),
    Bug(hellos_create_state, "4: ", ("unauthenticated",)),
    Bug(keys_are_printed, "10: "),
    Bug(unauthenticated_peers_are_answered, "4: ", ("unauthenticated",)),
    Bug(malformed_messages_raise, "", ("garble",), has_malicious=True),
    Bug(
        partial_deltas_count,
        "13: ",
        ("set_entry", "delete_entry", "partition", "heal"),
        config=(("state", StateConfig(tombstone=1.0)),),
        duration_s=60.0,
        nodes=4,
    ),
    Bug(
        deleted_keys_are_forgotten,
        "13: ",
        ("set_entry", "delete_entry", "partition", "heal"),
        Network(reorder=0.3, duplication=0.3),
        nodes=5,
    ),
)


def report_of(bug: Bug, seed: int, monkeypatch: Patch) -> str | None:
    """What the swarm reports with this seed; None if nothing."""
    with monkeypatch.context() as patch:
        bug.enable(patch)
        try:
            swarm(seed, bug.adapt)
        except Exception as error:  # noqa: BLE001  a node that raises breaks a promise as well
            return str(error)
    return None


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.enable.__name__)
def test_the_swarm_finds_the_bug(bug: Bug, patch_sources: Patch) -> None:
    report = next(filter(None, (report_of(bug, seed, patch_sources) for seed in SEEDS)), None)
    assert report is not None, f"no seed of {SEEDS} found it"
    assert any(each in report for each in bug.found_as.split(" or ")), report


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.enable.__name__)
def test_without_the_bug_the_same_mix_finds_nothing(bug: Bug) -> None:
    swarm(0, bug.adapt)
