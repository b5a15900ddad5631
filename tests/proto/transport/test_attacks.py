"""Attacks by outsiders, on-path attackers and malicious members change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings

from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.crypto.identity import MAC_BYTES, Identity
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address
from grapevine_proto.transport.handshake.cookies import COOKIE_ROTATION_S
from grapevine_proto.transport.handshake.handshake_crypto import (
    INITIATOR,
    RESPONDER,
    Credentials,
    transcript,
    with_mac,
)
from grapevine_proto.transport.handshake.handshake_limits import ADDRESS_HANDSHAKES_PER_S
from grapevine_proto.transport.handshake.initiator import HandshakeState, Initiator
from grapevine_proto.transport.session import session
from grapevine_proto.transport.session.session import REKEY_AFTER_S
from grapevine_proto.wire.codec import (
    Challenge,
    Hello,
    Proof,
    Welcome,
    decode_packet,
    encode_packet,
)
from grapevine_proto.wire.signed import PeerRecord
from tests.proto.transport.ends import (
    CLUSTER,
    KEY,
    NAMES,
    OTHER_KEY,
    End,
    World,
    direct_message,
    linked_ends,
    name_of,
    snapshot,
    two_ends,
)

OUTSIDER: Final = Address("203.0.113.9", 9)

P: Final = 2**255 - 19
SMALL_ORDER: Final = [
    point.to_bytes(32, "little")
    for value in (
        0,
        1,
        P - 1,
        P,
        P + 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
    for point in (value, value | 1 << 255)
]


@pytest.fixture(autouse=True)
def no_nonce_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asserts in every test of this module that no nonce is used twice under a key."""
    used: set[tuple[bytes, bytes]] = set()
    seal = bindings.crypto_secretbox

    def watched(message: bytes, nonce: bytes, key: bytes) -> bytes:
        assert (key, nonce) not in used
        used.add((key, nonce))
        return seal(message, nonce, key)

    monkeypatch.setattr(bindings, "crypto_secretbox", watched)
    monkeypatch.setattr(session, "_seal", watched)


# --- outsiders without the cluster key ------------------------------------------------------------


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_an_unauthenticated_peer_gets_no_reply(content: bytes) -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    before = snapshot(ada), snapshot(bob)

    assert world.throw(content, OUTSIDER, bob.address) == []
    assert world.throw(content, bob.address, ada.address) == []
    assert (snapshot(ada), snapshot(bob)) == before


@pytest.mark.parametrize("name", NAMES.values())
def test_any_flipped_bit_is_dropped_and_changes_nothing(name: str) -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    datagram, source, to = world.hold(name)
    for bit in range(8 * len(datagram)):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 1 << bit % 8
        world.refusal(bytes(flipped), source, to)
    world.run(5.0)

    assert ada.link.session.our_id == bob.link.session.their_id


@pytest.mark.parametrize("name", NAMES.values())
def test_a_truncated_or_extended_packet_is_dropped_and_changes_nothing(name: str) -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    datagram, source, to = world.hold(name)
    for size in range(len(datagram)):
        world.refusal(datagram[:size], source, to)
    for tail in (b"\0", b"\xff", datagram, bytes(1000)):
        world.refusal(datagram + tail, source, to)
    world.run(5.0)

    assert ada.link.session.our_id == bob.link.session.their_id


@pytest.mark.parametrize("name", NAMES.values())
def test_a_reflected_packet_is_dropped(name: str) -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    datagram, source, to = world.hold(name)
    if name in ("hello", "proof"):  # the sender answers any address, then sees its own identity
        answers = world.throw(datagram, to, source)
        assert all(len(answer) <= len(datagram) for answer in answers)
    else:
        world.refusal(datagram, to, source)
    world.run(5.0)

    assert ada.link.session.our_id == bob.link.session.their_id
    assert len(ada.established) == len(bob.established) == 1


def test_a_reflected_data_packet_is_dropped_on_a_live_link() -> None:
    world, ada, bob = linked_ends()
    ada.link.send(direct_message(1), world.now)
    datagram, source, to = world.hold("data")
    as_if_for_ada = datagram[:1] + ada.link.session.our_id + datagram[9:]

    assert world.refusal(datagram, to, source) is DropReason.UNKNOWN_SESSION
    reason = world.refusal(as_if_for_ada, bob.address, ada.address)
    assert reason in (DropReason.DECRYPT_FAILED, DropReason.REPLAY)


def test_an_answer_is_recognized_by_its_mac_not_by_its_source() -> None:
    """A host with several addresses may answer from another than it was dialed at."""
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    for name in ("challenge", "welcome"):
        datagram, _, to = world.hold(name)
        forged = datagram[:-1] + bytes([datagram[-1] ^ 1])
        assert world.refusal(forged, OUTSIDER, to) is DropReason.UNKNOWN_KEY
        world.throw(datagram, OUTSIDER, to)
    world.run(1.0)

    assert ada.link.address == bob.address  # what we send goes where we dialed


def test_a_second_challenge_and_a_second_welcome_are_ignored() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    for name in ("challenge", "welcome"):
        datagram, source, to = world.hold(name)
        world.throw(datagram, source, to)
        assert world.refusal(datagram, source, to) is DropReason.UNEXPECTED


def test_a_proof_from_another_address_or_for_another_node_has_a_stale_cookie() -> None:
    world, ada, bob = two_ends()
    carol = End("carol", Address("192.0.2.3", 3000))
    world.ends[carol.address] = carol
    ada.dial(bob.address, 0.0)
    proof, source, to = world.hold("proof")

    assert world.refusal(proof, OUTSIDER, to) is DropReason.STALE_COOKIE
    assert world.refusal(proof, source._replace(port=1), to) is DropReason.STALE_COOKIE
    assert world.refusal(proof, source, carol.address) is DropReason.STALE_COOKIE


def test_data_from_another_address_opens_but_changes_no_address() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    datagram, _, to = world.hold("data")
    world.throw(datagram, OUTSIDER, to)

    assert bob.link.address == ada.address


# --- on-path attackers: replay --------------------------------------------------------------------


def long_exchange() -> tuple[World, End, End]:
    """A dial, messages both ways, a rekey, messages again."""
    world, ada, bob = linked_ends()
    for number in range(3):
        ada.link.send(direct_message(number), world.now)
        bob.link.send(direct_message(number), world.now)
        world.run(1.0)
        if number == 1:
            world.run(REKEY_AFTER_S)
            assert ada.link.needs_rekey(world.now)
            ada.dial(bob.address, world.now, expected=bob.peer_id)
    assert len(ada.established) == 2
    return world, ada, bob


def keep_links(world: World, ada: End, bob: End) -> None:
    return


def close_links(world: World, ada: End, bob: End) -> None:
    for end in (ada, bob):
        end.links.clear()
        end.index.clear()


def forget_links(world: World, ada: End, bob: End) -> None:
    close_links(world, ada, bob)
    world.run(60.0)


def rotate_cookies(world: World, ada: End, bob: End) -> None:
    close_links(world, ada, bob)
    world.run(2 * COOKIE_ROTATION_S)


def restart_both(world: World, ada: End, bob: End) -> None:
    ada.start(world.now)
    bob.start(world.now)


@pytest.mark.parametrize(
    "situation", [keep_links, close_links, forget_links, rotate_cookies, restart_both]
)
def test_a_replay_of_everything_changes_nothing(
    situation: Callable[[World, End, End], None],
) -> None:
    world, ada, bob = long_exchange()
    situation(world, ada, bob)
    before = snapshot(ada), snapshot(bob)
    recorded = list(world.log)
    for source_of in (lambda source: source, lambda source: OUTSIDER):
        for datagram, source, to in recorded:
            answers = world.throw(datagram, source_of(source), to)
            assert name_of(datagram) == "hello" or not answers
            assert all(len(answer) <= len(datagram) for answer in answers)
            assert (snapshot(ada), snapshot(bob)) == before

    world.run(1.0)
    if situation is keep_links:
        ada.link.send(direct_message(9), world.now)
        world.run(1.0)
        assert bob.opened[-1] == direct_message(9)


def test_a_replay_of_everything_during_a_dial_changes_nothing() -> None:
    world, ada, bob = long_exchange()
    recorded = list(world.log)
    close_links(world, ada, bob)
    opened = len(ada.opened), len(bob.opened)
    dial = ada.dial(bob.address, world.now)
    for name in NAMES.values():
        world.hold(name)
        for datagram, source, to in recorded:
            for answer in world.throw(datagram, source, to):
                assert len(answer) <= len(datagram)
        assert len(ada.established) == len(bob.established) == 2
        assert (len(ada.opened), len(bob.opened)) == opened
    world.run(5.0)

    assert bob.link.session.their_id == dial.session_id


def test_a_replayed_proof_gets_the_same_welcome_and_no_new_session() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    welcome, _, _ = world.hold("welcome")
    ((proof, source, to),) = world.of("proof")

    assert [world.throw(proof, source, to) for _ in range(5)] == [[welcome]] * 5
    assert bob.responder.pending == 1
    world.run(5.0)
    assert world.refusal(proof, source, to) is DropReason.REPLAYED_PROOF


# --- malicious members ----------------------------------------------------------------------------


def made_again(packet: Hello | Challenge | Proof | Welcome, context: bytes = b"") -> bytes:
    return with_mac(KEY, CLUSTER, encode_packet(packet), context)


def test_a_proof_changed_anywhere_by_a_member_is_refused() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    datagram, source, to = world.hold("proof")
    proof = decode_packet(datagram)
    assert isinstance(proof, Proof)
    other_point = bindings.crypto_scalarmult_base(b"m" * 32)
    swapped = proof._replace(hello=proof.hello._replace(ephemeral=other_point))
    renamed = proof._replace(hello=proof.hello._replace(session_id=b"elsewher"))
    broken = proof._replace(box=proof.box[:-1] + bytes([proof.box[-1] ^ 1]))

    assert world.refusal(made_again(swapped), source, to) is DropReason.STALE_COOKIE
    assert world.refusal(made_again(renamed), source, to) is DropReason.STALE_COOKIE
    assert world.refusal(made_again(broken), source, to) is DropReason.BAD_PROOF
    for version in (0, 2, 255):
        reason = world.refusal(made_again(proof._replace(version=version)), source, to)
        assert reason is DropReason.UNKNOWN_VERSION
    for size in range(len(proof.box)):
        world.now += 1 / ADDRESS_HANDSHAKES_PER_S
        shorter = proof._replace(box=proof.box[:size])
        assert world.refusal(made_again(shorter), source, to) is DropReason.BAD_PROOF


def test_an_ephemeral_key_swapped_in_transit_is_detected_by_both_ends() -> None:
    """A member in the middle puts its own e1 into the Hello, and its own e2 into the Welcome."""
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    hello_datagram, source, to = world.hold("hello")
    hello = decode_packet(hello_datagram)
    assert isinstance(hello, Hello)
    point = bindings.crypto_scalarmult_base(b"m" * 32)
    (challenge,) = world.throw(made_again(hello._replace(ephemeral=point)), source, to)
    assert world.refusal(challenge, to, source) is DropReason.UNKNOWN_KEY

    welcome_datagram, source, to = world.hold("welcome")
    welcome = decode_packet(welcome_datagram)
    assert isinstance(welcome, Welcome)
    proof_body = world.of("proof")[-1][0][:-MAC_BYTES]
    for changed in (
        welcome._replace(ephemeral=point),
        welcome._replace(our_session_id=b"elsewher"),
        welcome._replace(box=welcome.box[:-1]),
        welcome._replace(box=welcome.box + b"\0"),
    ):
        reason = world.refusal(made_again(changed, proof_body), source, to)
        assert reason is DropReason.BAD_PROOF
    world.run(5.0)
    assert ada.link.session.our_id == bob.link.session.their_id


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
def test_an_initiator_whose_ephemeral_has_small_order_is_refused(
    point: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, ada, bob = two_ends()
    with monkeypatch.context() as patch:
        patch.setattr(bindings, "crypto_scalarmult_base", lambda secret: point)
        ada.dial(bob.address, 0.0)
    proof, source, to = world.hold("proof")

    assert world.refusal(proof, source, to) is DropReason.BAD_PROOF
    assert bob.responder.pending == 0


class Imposter:
    """A member that answers Ada's dial in its own way, with any identity, record and ephemeral."""

    def __init__(self) -> None:
        self.world, self.ada, self.bob = two_ends()
        self.dial = self.ada.dial(self.bob.address, 0.0)
        self.proof, _, _ = self.world.hold("proof")
        self.bodies = [
            datagram[:-MAC_BYTES]
            for name in ("hello", "challenge", "proof")
            for datagram, _, _ in self.world.of(name)[:1]
        ]
        self.our_secret = b"m" * 32
        self.answers = 0
        hello = decode_packet(self.world.of("hello")[0][0])
        assert isinstance(hello, Hello)
        self.hello = hello

    def refusal(
        self,
        identity: Identity,
        record: PeerRecord,
        *,
        point: bytes | None = None,
        shared: bytes | None = None,
        role: bytes = RESPONDER,
        cluster: str = CLUSTER,
    ) -> DropReason:
        ephemeral = point or bindings.crypto_scalarmult_base(self.our_secret)
        if shared is None:
            shared = bindings.crypto_scalarmult(self.our_secret, self.hello.ephemeral)
        self.answers += 1
        bare = Welcome(self.hello.session_id, ephemeral, self.answers.to_bytes(8, "big"), b"")
        content = transcript(*self.bodies, encode_packet(bare))
        box = Credentials(role, KEY, cluster, content, shared).seal(identity, record)
        datagram = made_again(bare._replace(box=box), self.bodies[-1])
        return self.world.refusal(datagram, self.bob.address, self.ada.address)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
def test_a_responder_whose_ephemeral_has_small_order_is_refused(point: bytes) -> None:
    imposter = Imposter()
    identity, record = imposter.bob.identity, imposter.bob.record

    reason = imposter.refusal(identity, record, point=point, shared=bytes(32))
    assert reason is DropReason.BAD_PROOF


def test_a_member_cannot_answer_as_another() -> None:
    imposter = Imposter()
    ada, bob = imposter.ada, imposter.bob
    mallory = Identity(b"m" * 32)
    changed = replace(bob.record, name="mallory")
    gone = replace(bob.record, left=True).signed(bob.identity, CLUSTER)
    elsewhere = bob.record.signed(bob.identity, "orchard")

    assert imposter.refusal(mallory, bob.record) is DropReason.BAD_PROOF
    assert imposter.refusal(bob.identity, changed) is DropReason.BAD_RECORD
    assert imposter.refusal(bob.identity, gone) is DropReason.BAD_RECORD
    assert imposter.refusal(bob.identity, elsewhere) is DropReason.BAD_RECORD
    assert imposter.refusal(bob.identity, bob.record, role=INITIATOR) is DropReason.BAD_PROOF
    assert imposter.refusal(bob.identity, bob.record, cluster="x") is DropReason.BAD_PROOF
    assert imposter.refusal(ada.identity, ada.record) is DropReason.SELF_DIAL
    imposter.dial.expected = mallory.peer_id
    assert imposter.refusal(bob.identity, bob.record) is DropReason.WRONG_PEER
    imposter.dial.expected = bob.peer_id
    with pytest.raises(AssertionError, match="not dropped"):
        imposter.refusal(bob.identity, bob.record)
    assert imposter.dial.state is HandshakeState.CONFIRMING


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        (DropReason.BAD_RECORD, lambda record, end: replace(record, name="other")),
        (
            DropReason.BAD_RECORD,
            lambda record, end: replace(record, left=True).signed(end.identity, CLUSTER),
        ),
        (DropReason.BAD_RECORD, lambda record, end: record.signed(end.identity, "orchard")),
        (DropReason.BAD_PROOF, lambda record, end: End("eve", OUTSIDER).record),
    ],
)
def test_a_member_cannot_dial_with_the_record_of_another(
    reason: DropReason, change: Callable[[PeerRecord, End], PeerRecord]
) -> None:
    world, ada, bob = two_ends()
    dial = ada.dial(bob.address, 0.0)
    dial._record = change(ada.record, ada)
    proof, source, to = world.hold("proof")

    assert world.refusal(proof, source, to) is reason


def test_a_sealed_box_of_nonsense_is_malformed() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    datagram, source, to = world.hold("proof")
    proof = decode_packet(datagram)
    assert isinstance(proof, Proof)
    bodies = [world.of(name)[0][0][:-MAC_BYTES] for name in ("hello", "challenge")]
    box_key = KEY.derive(INITIATOR, b"", transcript(*bodies))
    for nonsense in (b"", b"\0" * 63, b"\0" * 64, b"\0" * 300):
        box = bindings.crypto_secretbox_easy(nonsense, bytes(24), box_key)
        reason = world.refusal(made_again(proof._replace(box=box)), source, to)
        assert reason is DropReason.MALFORMED


def test_a_challenge_for_an_unsupported_version_is_dropped() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    datagram, source, to = world.hold("challenge")
    challenge = decode_packet(datagram)
    assert isinstance(challenge, Challenge)
    hello_body = world.of("hello")[0][0][:-MAC_BYTES]
    forged = made_again(challenge._replace(version=7), hello_body)

    assert world.refusal(forged, source, to) is DropReason.UNKNOWN_VERSION


def test_an_answer_to_another_hello_is_dropped() -> None:
    world, ada, bob = two_ends()
    first = ada.dial(bob.address, 0.0)
    datagram, source, to = world.hold("challenge")
    challenge = decode_packet(datagram)
    assert isinstance(challenge, Challenge)
    second = ada.dial(bob.address, world.now)
    renamed = challenge._replace(session_id=second.session_id)
    hello_body = world.of("hello")[0][0][:-MAC_BYTES]

    assert world.refusal(made_again(renamed, hello_body), source, to) is DropReason.UNKNOWN_KEY
    mixed = made_again(renamed, hello_body)
    packet = decode_packet(mixed)
    assert isinstance(packet, Challenge)
    with pytest.raises(Dropped) as refused:
        first.receive(packet, mixed, source, world.now)
    assert refused.value.reason is DropReason.UNEXPECTED


# --- limits ---------------------------------------------------------------------------------------


def newcomer_ends(count: int) -> list[End]:
    return [End(f"newcomer {n}", Address(f"10.1.{n >> 8}.{n & 255}", 1)) for n in range(count)]


def test_beyond_the_limit_a_proof_is_accepted_and_the_oldest_evicted() -> None:
    bob = End("bob", Address("192.0.2.2", 2000), limits=LimitsConfig(accepted_proofs=3))
    newcomers = newcomer_ends(4)
    world = World(bob, *newcomers)
    for newcomer in newcomers:
        newcomer.dial(bob.address, world.now)
        world.run(5.0)

    assert all(newcomer.links for newcomer in newcomers)
    assert bob.drops == []
    assert bob.responder.evicted == 1
    sessions = [link.session_ids() for link in bob.links.values()]
    for proof, source, to in world.of("proof"):  # even an evicted one replaces no link
        world.throw(proof, source, to)
    world.run(5.0)
    assert [link.session_ids() for link in bob.links.values()] == sessions


def test_one_identity_has_a_share_of_accepted_proofs_and_others_have_theirs() -> None:
    world, ada, bob = two_ends()
    eve = End("eve", OUTSIDER)
    world.ends[eve.address] = eve
    for _ in range(67):
        eve.links.clear()
        eve.dial(bob.address, world.now)
        world.run(0.5)
    assert len(bob.established) == 64
    assert set(bob.drops) == {DropReason.TABLE_FULL}
    ada.dial(bob.address, world.now)
    world.run(1.0)
    assert ada.links
    world.run(2 * COOKIE_ROTATION_S)
    eve.links.clear()
    eve.dial(bob.address, world.now)
    world.run(1.0)
    assert eve.links, "once its earlier ones are forgotten"


def test_replays_of_a_proof_are_charged_to_no_budget_and_answered_a_few_times() -> None:
    world, ada, bob = two_ends()
    ada.dial(bob.address, 0.0)
    world.hold("welcome")
    ((proof, source, to),) = world.of("proof")
    answers = sum(bool(world.throw(proof, source, to)) for _ in range(1000))
    assert answers == 8
    assert bob.drops.count(DropReason.REPLAYED_PROOF) == 992
    world.now += 1.0
    assert sum(bool(world.throw(proof, source, to)) for _ in range(1000)) == 4
    world.run(3.0)
    assert ada.links
    another = End("another", source._replace(port=9))
    world.ends[another.address] = another
    another.dial(bob.address, world.now)
    world.run(1.0)
    assert another.links, "its address has used no budget"


def test_unconfirmed_sessions_of_one_network_evict_each_other() -> None:
    bob = End("bob", Address("192.0.2.2", 2000))
    bob.responder._unconfirmed_limit = 16
    honest = End("honest", Address("10.9.9.9", 1))
    flood = [End(f"flood {n}", Address("127.0.0.1", 1000 + n)) for n in range(30)]
    world = World(bob, honest, *flood)
    world.drop = lambda datagram, *_: name_of(datagram) == "data"
    honest.dial(bob.address, world.now)
    world.run(0.1)
    for each in flood:
        each.dial(bob.address, world.now)
    world.run(0.1)
    assert bob.responder.pending == 16
    world.drop = lambda *_: False
    world.run(3.0)
    assert honest.links


def test_of_257_unconfirmed_sessions_the_oldest_is_evicted() -> None:
    bob = End("bob", Address("192.0.2.2", 2000))
    newcomers = newcomer_ends(257)
    world = World(bob, *newcomers)
    world.drop = lambda datagram, *_: name_of(datagram) == "data"
    for newcomer in newcomers[:-1]:
        newcomer.dial(bob.address, world.now)
    world.run(0.1)
    assert (bob.responder.pending, bob.responder.evicted) == (256, 0)
    newcomers[-1].dial(bob.address, world.now)
    world.run(0.1)

    assert (bob.responder.pending, bob.responder.evicted) == (256, 1)
    world.drop = lambda *_: False
    world.run(3.0)
    assert len(bob.links) == 256
    assert sum(bool(newcomer.links) for newcomer in newcomers) == 256


def hello_of(newcomer: End, bob: End) -> bytes:
    dial: Initiator = newcomer.dial(bob.address, 0.0)
    (datagram,) = dial.transmit(0.0)
    return datagram


@pytest.mark.parametrize(("host", "limited"), [("192.0.2.1", True), ("127.0.0.1", False)])
def test_an_address_gets_half_of_all_challenges_and_loopback_its_own_budget(
    host: str, limited: bool
) -> None:
    world, ada, bob = two_ends()
    hello = hello_of(ada, bob)
    answered = sum(
        len(world.throw(hello, Address(host, port), bob.address)) for port in range(1, 4001)
    )

    challenges = bob.limits.challenges_per_second
    assert answered == (challenges // 2 if limited else challenges)


def test_a_hello_under_another_key_costs_no_budget() -> None:
    world, ada, bob = two_ends()
    ada.key = OTHER_KEY
    hello = hello_of(ada, bob)
    for _ in range(500):
        assert world.refusal(hello, ada.address, bob.address) is DropReason.UNKNOWN_KEY
    ada.key = KEY

    assert world.throw(hello_of(ada, bob), ada.address, bob.address)
