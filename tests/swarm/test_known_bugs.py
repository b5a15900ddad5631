"""Faults that others had, or that we might: each switched on, the swarm finds it.

What must stay true: a bug is switched on by changing one function of the node, never a check of the
swarm; and with none switched on the same seeds find nothing (`test_swarm`). A bug that no seed
finds any more means that a promise is no longer checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from grapevine_proto import ClusterKey, EpidemicConfig, PeerId, PeerState
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.errors import DropReason
from grapevine_proto.ids import Address
from grapevine_proto.overlay import peers
from grapevine_proto.overlay.broadcast import ihave
from grapevine_proto.overlay.broadcast.broadcast import Broadcast
from grapevine_proto.overlay.broadcast.epidemic import Epidemic
from grapevine_proto.overlay.broadcast.strategy import NewRumor, PushPlan
from grapevine_proto.overlay.membership.membership import Membership
from grapevine_proto.overlay.peers import PeerTrigger
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
from tests.swarm import Mix, swarm

SEEDS: Final = range(16)  # tried one after another until one finds the bug
Patch = pytest.MonkeyPatch


def replay_window_off(patch: Patch) -> None:
    patch.setattr(ReplayWindow, "is_fresh", lambda self, counter: True)


def dedup_forgets(patch: Patch) -> None:
    """Every few messages what was seen of a stream is forgotten."""
    mark = SequenceTracker.add

    def forget(
        self: SequenceTracker, first: int, last: int, now: float, *, is_loss: bool = True
    ) -> None:
        mark(self, first, last, now, is_loss=is_loss)
        if last % 4 == 0:
            self.high = last - 2

    patch.setattr(SequenceTracker, "add", forget)


def marks_are_not_saved(patch: Patch) -> None:
    saved = Engine.snapshot

    def forget(self: Engine, now: float) -> NodeState:
        return replace(saved(self, now), streams=())

    patch.setattr(Engine, "snapshot", forget)


def watermark_jumps(patch: Patch) -> None:
    """What was skipped on the way counts as seen."""
    mark = SequenceTracker.add

    def jump(
        self: SequenceTracker, first: int, last: int, now: float, *, is_loss: bool = True
    ) -> None:
        mark(self, first, last, now, is_loss=is_loss)
        self.gaps = []

    patch.setattr(SequenceTracker, "add", jump)


def nonce_used_twice(patch: Patch) -> None:
    seal = Session.seal

    def again(self: Session, plaintext: bytes, now: float) -> bytes:
        if self._next_counter % 50 == 49:
            self._next_counter -= 1
        return seal(self, plaintext, now)

    patch.setattr(Session, "seal", again)


def epoch_not_raised(patch: Patch) -> None:
    """A restarted node counts its messages from one again, under the ids of its former life."""

    def keep(self: SimulatedNode, saved: NodeState, at: float) -> int:
        return saved.epoch or START_UNIX_S

    patch.setattr(SimulatedNode, "next_epoch", keep)


def nothing_ages(patch: Patch) -> None:
    """What is held is told to be as old as when it came: repair brings expired messages again."""
    patch.setattr(_CachedRumor, "age_now_ms", lambda self, now: self.age_ms)


def forged_copy_marks_an_id(patch: Patch) -> None:
    rejection = Broadcast._rejection

    def mark(self: Broadcast, copy: Any, sender: Any, is_firsthand: bool, now: float) -> Any:
        found = rejection(self, copy, sender, is_firsthand, now)
        if found is DropReason.BAD_SIGNATURE:
            state = self._store._find(*copy.rumor.stream) or self._store._open(
                copy.rumor.stream, now
            )
            state.tracker.add(copy.rumor.first, copy.rumor.last, now)
        return found

    patch.setattr(Broadcast, "_rejection", mark)


def signatures_not_checked(patch: Patch) -> None:
    patch.setattr(signed.Rumor, "is_authentic", lambda self, cluster: True)


def hops_not_limited(patch: Patch) -> None:
    spread = Epidemic.on_new_rumor

    def always(self: Epidemic, news: NewRumor, now: float) -> PushPlan:
        return spread(self, news._replace(hops=0), now)

    patch.setattr(Epidemic, "on_new_rumor", always)


def sessions_retire_at_once(patch: Patch) -> None:
    """A session that was replaced hears nothing more, although packets are on their way on it."""
    patch.setattr(Sessions, "retire", lambda self, session, now: self._set_live_deadline(now))


def illegal_transition(patch: Patch) -> None:
    """A silent peer that is heard again is taken for one that is being dialled."""
    table = dict(peers.TRANSITIONS)
    table[PeerState.STALE, PeerTrigger.PACKET_RECEIVED] = PeerState.CONNECTING
    table[PeerState.CONNECTING, PeerTrigger.MISSED_HEARTBEATS] = PeerState.STALE
    patch.setattr(peers, "TRANSITIONS", table)


def lazy_repair_asks_everybody(patch: Patch) -> None:
    patch.setattr(ihave, "IWANT_TIMEOUT_BOUNDS_S", (0.0, 0.0))


def tokens_not_charged(patch: Patch) -> None:
    patch.setattr(TokenBucket, "try_take", lambda self, now, tokens=1.0: True)


def sleeper_convicts_others(patch: Patch) -> None:
    """Who was suspended takes its own silence for everybody else's."""
    patch.setattr(Membership, "_shift_deadlines", lambda self, late_s, now: None)


def suspects_are_not_heard(patch: Patch) -> None:
    """Who is accused may say what he likes."""
    patch.setattr(Detector, "on_packet", lambda self, peer_id, now: [])
    patch.setattr(Detector, "on_new_incarnation", lambda self, member, now: [])


def first_comer_is_pushed_again(patch: Patch) -> None:
    """What was said to nobody went to the first who came, and a little later once more. (Ours.)"""
    patch.setattr(Epidemic, "on_late_delivery", lambda self, key, peer_id: None)


def strangers_are_kept(patch: Patch) -> None:
    """Whoever says hello has an account."""
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


def strangers_are_answered(patch: Patch) -> None:
    patch.setattr(Responder, "_key_of", lambda self, datagram: self._keys[0])


def nonsense_raises(patch: Patch) -> None:
    patch.setattr(message_codec, "UNPACK_ERRORS", ())


@dataclass(frozen=True)
class Bug:
    """How to switch it on, by which words it is found, and what the mix needs for it to show."""

    switch: Callable[[Patch], None]
    found_as: str
    actions: tuple[str, ...] = ()
    network: Network = Network()  # noqa: RUF009  frozen
    config: tuple[tuple[str, Any], ...] = ()
    lasts_s: float = 20.0
    nodes: int = 6
    has_liar: bool = False
    is_calm: bool = False

    def arrange(self, mix: Mix) -> None:
        """Make the mix one in which this bug can show; all else stays as the seed drew it."""
        mix.nodes, mix.network, mix.lasts_s = self.nodes, self.network, self.lasts_s
        mix.config = mix.config.replace(
            strategy="epidemic", lazy_push=True, message_dedup_ttl=300.0
        ).replace(**dict(self.config))
        mix.has_liar = self.has_liar
        mix.actions = {"say": 5.0, "whisper": 3.0} | dict.fromkeys(self.actions, 2.0)


BUGS: Final = (
    Bug(replay_window_off, "comes again", network=Network(duplication=0.3)),
    Bug(dedup_forgets, "times or to one peer twice", ("burst",)),  # whichever is seen first
    Bug(marks_are_not_saved, "times", ("crash",)),
    Bug(
        watermark_jumps,
        "never heard",
        ("crash", "suspend", "burst"),
        Network(loss=0.2),
        lasts_s=30.0,
        nodes=4,
    ),
    Bug(nonce_used_twice, "nonce twice"),
    Bug(epoch_not_raised, "1: ", ("crash",), nodes=4),
    Bug(
        nothing_ages,
        "after it was said",
        ("part", "heal"),
        config=(("message_dedup_ttl", 5.0),),
        lasts_s=80.0,
        nodes=4,
    ),
    Bug(forged_copy_marks_an_id, "never heard", ("forge",), has_liar=True),
    Bug(signatures_not_checked, "1: ", ("forge",), has_liar=True),
    Bug(
        hops_not_limited,
        "hops",
        nodes=10,
        config=(("epidemic", EpidemicConfig(hops=2)), ("fanout", 2)),
    ),
    Bug(sessions_retire_at_once, "good weather", lasts_s=260.0, nodes=4),
    Bug(illegal_transition, "7: ", ("suspend", "part", "heal")),
    Bug(lazy_repair_asks_everybody, "two peers at once", nodes=10, network=Network(loss=0.2)),
    Bug(tokens_not_charged, "in a second", ("flood",), has_liar=True),
    Bug(sleeper_convicts_others, "9: ", ("suspend",), lasts_s=60.0, nodes=3),
    Bug(suspects_are_not_heard, "", ("suspend",), lasts_s=60.0),
    Bug(first_comer_is_pushed_again, "6: ", ("crash", "burst"), lasts_s=40.0, nodes=4),
    Bug(strangers_are_kept, "4: ", ("stranger",)),
    Bug(keys_are_printed, "10: "),
    Bug(strangers_are_answered, "4: ", ("stranger",)),
    Bug(nonsense_raises, "", ("garble",), has_liar=True),
)


def found(bug: Bug, seed: int, monkeypatch: Patch) -> str | None:
    """What the swarm says of it, with this seed; None: nothing."""
    with monkeypatch.context() as patch:
        bug.switch(patch)
        try:
            swarm(seed, bug.arrange)
        except Exception as error:  # noqa: BLE001  a node that raises breaks a promise as well
            return str(error)
    return None


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.switch.__name__)
def test_the_swarm_finds_it(bug: Bug, monkeypatch: Patch) -> None:
    words = next(filter(None, (found(bug, seed, monkeypatch) for seed in SEEDS)), None)
    assert words is not None, f"no seed of {SEEDS} found it"
    assert any(each in words for each in bug.found_as.split(" or ")), words


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.switch.__name__)
def test_without_it_the_same_mix_finds_nothing(bug: Bug) -> None:
    swarm(0, bug.arrange)
