"""The handshake between honest nodes, on lossy and corrupting paths."""

from __future__ import annotations

import ast
import functools
import itertools
import random
from typing import Any, Final

import pytest

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.dial_purpose import LINK, TRANSIENT, DialPurpose, punch
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.events import PathKind
from grapevine_proto.ids import Address
from grapevine_proto.transport.handshake import initiator, responder
from grapevine_proto.transport.handshake.handshake_crypto import with_mac
from grapevine_proto.transport.handshake.initiator import (
    TRANSITIONS,
    HandshakeState,
    Initiator,
)
from grapevine_proto.transport.handshake.responder import Responder
from grapevine_proto.wire.codec import (
    BASE_DATAGRAM_BYTES,
    CHALLENGE_BYTES,
    HELLO_BYTES,
    Data,
    Hello,
    decode_message,
    decode_packet,
    encode_packet,
)
from grapevine_proto.wire.messages import SwapRequest
from tests.proto.transport.ends import (
    CLUSTER,
    EMPTY,
    KEY,
    NAMES,
    OTHER_KEY,
    Drop,
    End,
    World,
    direct_message,
    linked_ends,
    lose_nothing,
    name_of,
    two_ends,
)
from tests.sources import ROOT, tree_of


def both_linked(ada: End, bob: End) -> bool:
    return (
        bool(ada.links and bob.links)
        and ada.link.session.our_id == bob.link.session.their_id
        and ada.link.session.their_id == bob.link.session.our_id
    )


def lose_first(name: str, count: int = 1) -> Drop:
    """A path that loses the first `count` datagrams of one kind."""
    left = count

    def drop(datagram: bytes, sender: End, receiver: End) -> bool:
        nonlocal left
        left -= name_of(datagram) == name
        return name_of(datagram) == name and left >= 0

    return drop


def lose_some(share: float, seed: int) -> Drop:
    rng = random.Random(seed)
    return lambda *_: rng.random() < share


def test_four_messages_and_one_packet_each_way_establish_a_link() -> None:
    world, ada, bob = linked_ends()

    assert [name_of(each) for each, _, _ in world.log] == [
        "hello",
        "challenge",
        "proof",
        "welcome",
        "data",
        "data",
    ]
    assert both_linked(ada, bob)
    assert (ada.link.peer_id, bob.link.peer_id) == (bob.peer_id, ada.peer_id)
    assert (ada.link.record, bob.link.record) == (bob.record, ada.record)
    assert (ada.link.address, bob.link.address) == (bob.address, ada.address)
    assert (ada.opened, bob.opened) == ([EMPTY], [EMPTY])
    assert (ada.drops, bob.drops) == ([], [])
    assert bob.responder.pending == 0


def test_each_step_of_the_handshake_takes_one_rtt() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)

    assert world.run(10.0, until=lambda: both_linked(ada, bob)) == pytest.approx(0.06)
    assert ada.link.path.rtt_s == pytest.approx(0.02)
    assert bob.link.path.rtt_s == pytest.approx(0.02)


def test_messages_pass_both_ways_over_a_new_link() -> None:
    world, ada, bob = linked_ends()
    assert ada.link.send(direct_message(1), world.now)
    assert bob.link.send(direct_message(2), world.now)
    world.run(0.1)

    assert (ada.opened, bob.opened) == ([EMPTY, direct_message(2)], [EMPTY, direct_message(1)])


def test_an_unvalidated_address_is_sent_no_more_than_it_sent() -> None:
    world, _, _ = linked_ends()
    sizes = {name_of(each): len(each) for each, _, _ in world.log}

    assert sizes["challenge"] == CHALLENGE_BYTES <= HELLO_BYTES == sizes["hello"]
    assert max(sizes.values()) <= BASE_DATAGRAM_BYTES


@pytest.mark.parametrize("name", ["hello", "challenge", "proof", "welcome", "data"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handshake_survives_the_loss_of_any_message(name: str, count: int) -> None:
    world, ada, bob = two_ends()
    world.drop = lose_first(name, count)
    ada.dial(bob.address, 0.0)
    world.run(10.0)

    assert both_linked(ada, bob)
    assert len(bob.established) == len(ada.established) == 1


def test_a_retransmission_yields_no_rtt_sample() -> None:
    world, ada, bob = two_ends()
    lost = {name: lose_first(name) for name in NAMES.values()}
    world.drop = lambda datagram, a, b: lost[name_of(datagram)](datagram, a, b)
    ada.dial(bob.address, 0.0)
    world.run(10.0)

    assert both_linked(ada, bob)
    assert ada.link.path.rtt_s is None
    assert bob.link.path.rtt_s is None


@pytest.mark.parametrize("name", ["hello", "proof"])
def test_hello_and_proof_are_retransmitted_unchanged_with_backoff(name: str) -> None:
    world, ada, bob = two_ends()
    sent_at: list[float] = []

    def lose_all(datagram: bytes, sender: End, receiver: End) -> bool:
        if name_of(datagram) == name:
            sent_at.append(world.now)
        return name_of(datagram) == name

    world.drop = lose_all
    ada.dial(bob.address, 0.0)
    world.run(12.0)
    pauses = [later - sooner for sooner, later in itertools.pairwise(sent_at)]

    assert not ada.dials
    assert len({each for each, _, _ in world.of(name)}) == 1
    assert len(pauses) >= 5
    for pause, least in zip(pauses, [0.25, 0.5, 1.0, 2.0, 2.0, 2.0], strict=False):
        assert least <= pause <= 1.2 * least


def test_a_repeated_accepted_proof_gets_the_same_welcome() -> None:
    world, ada, bob = two_ends()
    world.drop = lose_first("welcome", 3)
    ada.dial(bob.address, 0.0)
    world.run(10.0)

    welcomes = [each for each, _, _ in world.of("welcome")]
    assert len(welcomes) == 4
    assert len(set(welcomes)) == 1


def test_confirming_packets_never_repeat_a_counter() -> None:
    world, ada, bob = two_ends()
    world.drop = lambda datagram, sender, _: name_of(datagram) == "data" and sender is ada
    ada.dial(bob.address, 0.0)
    world.run(5.0)

    sent = [each for each, _, _ in world.of("data")]
    assert len(sent) > 3
    assert len(set(sent)) == len(sent)


def test_fifty_handshakes_succeed_at_thirty_percent_loss() -> None:
    took: list[float] = []
    for seed in range(50):
        world, ada, bob = two_ends()
        world.drop = lose_some(0.3, seed)
        while not both_linked(ada, bob) and world.now < 60.0:
            if not ada.dials and not ada.links:
                ada.dial(bob.address, world.now)
            world.run(0.5, until=functools.partial(both_linked, ada, bob))
        took.append(world.now)

    assert max(took) < 60.0
    assert sum(each < 10.0 for each in took) >= 45


def test_fifty_handshakes_succeed_at_thirty_percent_corruption() -> None:
    for seed in range(50):
        world, ada, bob = two_ends()
        rng = random.Random(seed)

        def damage(
            datagram: bytes,
            sender: End,
            receiver: End,
            rng: random.Random = rng,
            world: World = world,
        ) -> bool:
            if rng.random() >= 0.3:
                return False
            at = rng.randrange(len(datagram))
            damaged = datagram[:at] + bytes((datagram[at] ^ 1 << rng.randrange(8),))
            for answer in receiver.receive(damaged + datagram[at + 1 :], sender.address, world.now):
                world._send(answer, receiver.address, sender.address)
            return True

        world.drop = damage
        while not both_linked(ada, bob) and world.now < 60.0:
            if not ada.dials and not ada.links:
                ada.dial(bob.address, world.now)
            world.run(0.5, until=functools.partial(both_linked, ada, bob))
        assert world.now < 60.0


def test_a_dial_without_an_answer_expires() -> None:
    world, ada, _ = two_ends()
    dial = ada.dial(Address("192.0.2.99", 1), 0.0, timeout_s=7.0)
    world.run(6.9)
    assert ada.dials
    world.run(0.2)

    assert not ada.dials
    assert dial.transmit(world.now) == []
    assert ada.drops == []


def test_a_dial_sends_nothing_after_its_timeout_but_still_takes_the_first_packet() -> None:
    world, ada, bob = two_ends()
    world.drop = lambda datagram, *_: name_of(datagram) == "data"
    dial = ada.dial(bob.address, 0.0, timeout_s=2.0)
    world.run(4.9)
    first, source, to = world.of("data")[-1]
    assert dial.transmit(world.now) == []
    world.drop = lose_nothing
    world.throw(first, source, to)
    world.run(0.05)

    assert both_linked(ada, bob)
    assert ada.drops == []


def test_a_dial_that_is_never_confirmed_expires_three_seconds_after_its_timeout() -> None:
    world, ada, bob = two_ends()
    world.drop = lambda datagram, *_: name_of(datagram) == "data"
    ada.dial(bob.address, 0.0, timeout_s=2.0)
    world.run(2.0)
    count = len(world.of("data"))
    world.run(2.99)
    assert ada.dials
    world.run(0.02)

    assert not ada.dials
    assert len(world.of("data")) == count


def test_a_second_session_confirmed_after_its_timeout_serves_both_ends() -> None:
    """The responder sends on it from then on, so an initiator without it would hear nothing."""
    world, ada, bob = two_ends()
    lower, higher = sorted((ada, bob), key=lambda end: end.peer_id)
    higher.dial(lower.address, 0.0)
    world.run(1.0, until=lambda: both_linked(lower, higher))
    received = {session_id for end in (lower, higher) for session_id in end.index}
    world.drop = lambda datagram, *_: (
        name_of(datagram) == "data" and (datagram[1:9] not in received)
    )
    lower.dial(higher.address, world.now, timeout_s=1.0)
    world.run(1.01)
    first, source, to = world.of("data")[-1]
    world.drop = lose_nothing
    world.throw(first, source, to)
    lower.link.send(direct_message(1), world.now)
    higher.link.send(direct_message(2), world.now)
    world.run(0.1)

    assert both_linked(lower, higher)
    assert direct_message(1) in higher.opened
    assert direct_message(2) in lower.opened
    assert DropReason.UNKNOWN_SESSION not in lower.drops


def test_a_dial_expires_before_its_session_does() -> None:
    world, ada, bob = two_ends()
    world.drop = lambda datagram, *_: name_of(datagram) == "data"
    ada.dial(bob.address, 0.0, timeout_s=3600.0)
    world.run(300.0)

    assert not ada.dials


@pytest.mark.parametrize(("key", "cluster"), [(OTHER_KEY, CLUSTER), (KEY, "orchard")])
def test_another_cluster_key_or_name_gets_no_reply(key: ClusterKey, cluster: str) -> None:
    world, ada, bob = two_ends()
    ada.key, ada.cluster = key, cluster
    ada.start(0.0)
    ada.dial(bob.address, 0.0)
    world.run(10.0)

    assert {name_of(each) for each, _, _ in world.log} == {"hello"}
    assert set(bob.drops) == {DropReason.UNKNOWN_KEY}
    assert bob.responder.pending == 0


def test_every_accepted_key_admits_and_a_removed_one_does_not() -> None:
    world, ada, bob = two_ends()
    bob.responder.reconfigure((OTHER_KEY, KEY), bob.limits, (), 0.0)
    ada.dial(bob.address, 0.0)
    world.run(1.0)
    assert both_linked(ada, bob)
    assert bob.link.session.key == KEY

    world, ada, bob = two_ends()
    bob.responder.reconfigure((OTHER_KEY,), bob.limits, (), 0.0)
    ada.dial(bob.address, 0.0)
    world.run(1.0)
    assert not bob.links


@pytest.mark.parametrize("rule_out", ["key", "peer"])
def test_reconfiguration_removes_unconfirmed_sessions_that_it_forbids(rule_out: str) -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    world.hold("welcome")
    assert bob.responder.pending == 1
    keys, denied = ((OTHER_KEY,), ()) if rule_out == "key" else ((KEY,), (ada.peer_id,))
    bob.responder.reconfigure(keys, bob.limits, denied, world.now)

    assert bob.responder.pending == 0


def test_a_denied_peer_is_refused() -> None:
    world, ada, bob = two_ends()
    bob.denied = (ada.peer_id,)
    bob.start(0.0)
    ada.dial(bob.address, 0.0)
    world.run(10.0)

    assert set(bob.drops) == {DropReason.DENIED}
    assert not bob.links


def test_a_node_that_dials_itself_is_refused() -> None:
    _, ada, _ = two_ends()
    world = World(ada)
    ada.dial(ada.address, 0.0)
    world.run(10.0)

    assert set(ada.drops) == {DropReason.SELF_DIAL}
    assert not ada.links


def test_a_dial_for_one_peer_accepts_no_other() -> None:
    world, ada, bob = two_ends()
    carol = End("carol", Address("192.0.2.3", 3000))
    dial = ada.dial(bob.address, 0.0, expected=carol.peer_id)
    world.run(10.0)

    assert set(ada.drops) == {DropReason.WRONG_PEER}
    assert dial.state is HandshakeState.PROOF_SENT
    assert not ada.links
    assert not bob.links


@pytest.mark.parametrize(
    ("nearer_than_s", "is_too_far"), [(0.03, False), (0.02, True), (0.0, True)]
)
def test_a_swap_dial_learns_from_the_challenge_whether_the_peer_is_nearer(
    nearer_than_s: float, is_too_far: bool
) -> None:
    world, ada, bob = two_ends()
    dial = ada.dial(bob.address, 0.0, swap_for=ada.record, max_rtt_s=nearer_than_s)
    assert not dial.is_rtt_too_high
    world.run(1.0, until=lambda: dial.state is HandshakeState.PROOF_SENT)
    assert dial.is_rtt_too_high is is_too_far


def test_a_swap_dial_with_a_retransmission_has_no_rtt_sample() -> None:
    world, ada, bob = two_ends()
    world.drop = lose_first("hello")
    dial = ada.dial(bob.address, 0.0, swap_for=ada.record, max_rtt_s=10.0)
    world.run(5.0, until=lambda: dial.state is HandshakeState.PROOF_SENT)
    assert dial.is_rtt_too_high


def test_the_first_message_of_a_swap_dial_is_the_swap_request() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0, swap_for=ada.record, max_rtt_s=1.0)
    world.run(1.0)
    assert decode_message(bob.established[0].plaintext) == SwapRequest(ada.record)


def test_a_dial_reports_the_responder_as_soon_as_it_is_verified() -> None:
    world, ada, bob = two_ends()
    dial = ada.dial(bob.address, 0.0)
    assert dial.peer_id is None
    world.run(1.0, until=lambda: dial.state is HandshakeState.CONFIRMING)

    assert dial.peer_id == bob.peer_id


@pytest.mark.parametrize(
    ("versions", "chosen"), [(b"\1\0\0\0", 1), (b"\1\x09\0\0", 1), (b"\x09\0\0\0", None)]
)
def test_the_highest_common_version_is_chosen(versions: bytes, chosen: int | None) -> None:
    world, ada, bob = two_ends()
    hello = Hello(versions, b"i" * 8, b"e" * 32)
    datagram = with_mac(KEY, CLUSTER, encode_packet(hello))

    if chosen is None:
        reason = world.refusal(datagram, ada.address, bob.address)
        assert reason is DropReason.UNKNOWN_VERSION
    else:
        (challenge,) = world.throw(datagram, ada.address, bob.address)
        assert challenge[9] == chosen


def test_two_versions_in_common_give_the_higher(patch_sources: pytest.MonkeyPatch) -> None:
    for end in (initiator, responder):
        patch_sources.setattr(end, "SUPPORTED_VERSIONS", frozenset({1, 2}))
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    world.run(1.0)

    assert both_linked(ada, bob)
    assert {each[9] for each, _, _ in world.of("challenge")} == {2}


def test_the_same_seed_makes_the_same_run_to_the_byte() -> None:
    first, second = linked_ends()[0], linked_ends()[0]

    assert first.log == second.log


def test_an_idle_responder_has_no_deadline() -> None:
    world, _, bob = linked_ends()
    world.run(1000.0)

    assert bob.responder.deadline == float("inf")


def test_a_newer_proof_replaces_the_unconfirmed_session_of_a_peer() -> None:
    world, ada, bob = two_ends()
    first = ada.dial(bob.address, 0.0)
    world.hold("welcome")
    second = ada.dial(bob.address, world.now)
    world.run(0.2, until=lambda: second.state is HandshakeState.CONFIRMING)
    assert bob.responder.pending == 1
    world.run(5.0)

    assert both_linked(ada, bob)
    assert bob.link.session.their_id == second.session_id
    assert first.state is HandshakeState.PROOF_SENT


def test_unconfirmed_sessions_expire() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0, timeout_s=0.1)
    _, _, _ = world.hold("data")
    assert bob.responder.pending == 1
    world.run(19.5)
    assert bob.responder.pending == 1
    world.run(0.5)

    assert bob.responder.pending == 0


def test_the_docstring_matches_the_transition_table() -> None:
    source = tree_of(ROOT / "grapevine_proto" / "transport" / "handshake" / "initiator.py")
    [initiator] = [
        each
        for each in source.body
        if isinstance(each, ast.ClassDef) and each.name == Initiator.__name__
    ]
    rows = [line.split() for line in (ast.get_docstring(initiator) or "").splitlines()]
    names = {step.name for step in HandshakeState}
    drawn = [(row[0], row[-2], row[-1]) for row in rows if row and row[0] in names]

    assert drawn == [
        (step.name, on.__name__, then.name) for (step, on), then in TRANSITIONS.items()
    ]


def test_neither_end_prints_a_secret() -> None:
    world, ada, bob = two_ends()
    dial = ada.dial(bob.address, 0.0)
    world.run(1.0)
    shown = " ".join(
        repr(each) for each in (dial, ada.responder, bob.responder, ada.link, bob.established)
    )

    for secret in (
        KEY.fingerprint[:0] + "k" * 32,
        ada.identity.seed.hex(),
        repr(ada.identity.seed),
    ):
        assert secret not in shown


def test_limits_may_change_while_running() -> None:
    limits = LimitsConfig(challenges_per_second=1, handshake_buckets=1)
    world, ada, bob = two_ends()
    bob.responder.reconfigure((KEY,), limits, (), 0.0)
    ada.dial(bob.address, 0.0)
    hello, source, to = world.hold("hello")
    world.throw(hello, source, to)

    assert world.refusal(hello, source, to) is DropReason.CHALLENGE_BUDGET


def test_a_responder_without_keys_admits_no_peer() -> None:
    world, ada, bob = two_ends()
    silent = Responder(bob.identity, (), CLUSTER, LimitsConfig(), (), entropy=bob.entropy, now=0.0)
    ada.dial(bob.address, 0.0)
    hello, source, _ = world.hold("hello")
    with pytest.raises(Dropped) as refused:
        silent.receive(Hello(b"\1\0\0\0", b"i" * 8, b"e" * 32), hello, source, bob.record, 0.0)

    assert refused.value.reason is DropReason.UNKNOWN_KEY


# --- one dial alone -------------------------------------------------------------------------------


BOB: Final = Address("192.0.2.2", 2000)


def dial_alone(now: float = 0.0, address: Address = BOB, **options: Any) -> Initiator:
    """A dial of Ada that no network carries."""
    ada = two_ends()[1]
    return Initiator(
        ada.identity,
        KEY,
        CLUSTER,
        address,
        ada.record,
        expected=None,
        timeout_s=10.0,
        entropy=ada.entropy,
        rng=random.Random(1),
        now=now,
        **options,
    )


def sent_at(dial: Initiator, *, before: float) -> list[float]:
    """When an unanswered dial sends."""
    times = []
    while (now := dial.deadline) < before:
        times += [now] * len(dial.transmit(now))
    return times


@pytest.mark.parametrize("max_hellos", [1, 2, 3])
def test_a_dial_sends_no_more_hellos_than_it_may_and_waits_for_an_answer(max_hellos: int) -> None:
    dial = dial_alone(max_hellos=max_hellos)
    assert len(sent_at(dial, before=10.0)) == max_hellos
    assert dial.deadline == 10.0
    assert not dial.is_expired(9.9)
    assert dial.is_expired(10.0)


def test_a_dial_begins_after_its_delay_and_ends_at_its_timeout_all_the_same() -> None:
    dial = dial_alone(100.0, delay_s=1.5)
    assert dial.deadline == 101.5
    assert dial.transmit(101.4) == []
    first, second, *_ = sent_at(dial, before=110.0)
    assert first == 101.5
    assert 101.75 <= second <= 101.8
    assert dial.deadline == 110.0
    assert dial.transmit(110.0) == []


def test_a_dial_whose_delay_is_its_timeout_sends_nothing() -> None:
    dial = dial_alone(100.0, delay_s=10.0)
    assert dial.transmit(110.0) == []
    assert dial.is_expired(110.0)


def test_a_limit_of_hellos_does_not_limit_proofs() -> None:
    world, ada, bob = two_ends()
    dial = dial_alone(max_hellos=1)
    ada.dials[dial.session_id] = dial
    world.drop = lose_first("proof", 2)
    world.run(3.0)
    assert both_linked(ada, bob)
    assert len(world.of("proof")) == 3


def test_retries_are_up_to_a_fifth_later_than_their_interval() -> None:
    """So that nodes that start together do not retry together."""
    shares = []
    for seed in range(50):
        ada = two_ends()[1]
        ada.rng.seed(seed)
        dial = ada.dial(BOB, 0.0)
        _, second, *_ = sent_at(dial, before=1.0)
        shares.append(second / 0.25 - 1)
    assert 0.0 <= min(shares) < 0.02
    assert 0.18 < max(shares) < 0.2


def test_a_dial_is_confirmed_once_and_by_nothing_before_the_welcome() -> None:
    world, ada, bob = linked_ends()
    bob.link.send(direct_message(1), world.now)
    world.run(0.1)
    sealed = [decode_packet(each) for each, source, _ in world.of("data") if source == bob.address]
    world, ada, bob = two_ends()  # the same bytes again
    dial = ada.dial(bob.address, 0.0)
    for state in HandshakeState:
        world.run(1.0, until=functools.partial(lambda state: dial.state is state, state))
        if state is HandshakeState.CONFIRMING:
            continue
        packet = sealed[state is HandshakeState.ESTABLISHED]
        assert isinstance(packet, Data)
        with pytest.raises(Dropped) as dropped:
            dial.confirm(packet, bob.address, world.now)
        assert dropped.value.reason is DropReason.UNEXPECTED


@pytest.mark.parametrize(
    ("address", "purpose", "kind"),
    [
        (BOB, LINK, PathKind.DIRECT),
        (BOB, punch(LINK), PathKind.PUNCHED),
        (Address("100::7", 1), punch(TRANSIENT), PathKind.RELAYED),
        (Address("100::7", 1), TRANSIENT, PathKind.RELAYED),
    ],
)
def test_a_session_knows_the_kind_of_its_path(
    address: Address, purpose: DialPurpose, kind: PathKind
) -> None:
    world, ada, bob = two_ends()
    dial = dial_alone(address=address, purpose=purpose)
    ada.dials[dial.session_id] = dial
    world.ends[address] = bob
    world.run(1.0, until=lambda: bool(ada.established))
    assert ada.established[0].path is kind


def test_the_rtt_of_a_handshake_is_the_lowest_of_its_samples() -> None:
    world, ada, bob = two_ends()
    dial = ada.dial(bob.address, 0.0)
    world.latency_s = 0.05
    world.run(1.0, until=lambda: dial.state is HandshakeState.PROOF_SENT)
    assert dial.rtt_s == pytest.approx(0.1)
    world.latency_s = 0.01
    world.run(1.0, until=lambda: dial.state is HandshakeState.CONFIRMING)
    assert dial.rtt_s == pytest.approx(0.02)
    world.latency_s = 0.05
    world.run(1.0, until=lambda: bool(ada.established))
    assert dial.rtt_s == pytest.approx(0.02)


def test_an_unconfirmed_session_is_confirmed_until_twenty_seconds_after_its_welcome() -> None:
    for late_s, is_linked in ((19.9, True), (20.1, False)):
        world, ada, bob = two_ends()
        ada.dial(bob.address, 0.0)
        datagram, source, to = world.hold("data")
        world.now = late_s + 0.03
        bob.advance(world.now)
        world.throw(datagram, source, to)
        assert bool(bob.links) is is_linked


def test_a_responder_wakes_for_its_oldest_session_or_its_cookies_and_else_sleeps() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    world.hold("data")
    assert bob.responder.deadline == pytest.approx(20.03)
    world.now = 30.0
    bob.advance(30.0)
    assert bob.responder.deadline == 120.0, "to forget the accepted Proof"
