"""The table of pending dials: their peers, their siblings at other addresses, and their timeouts."""

from __future__ import annotations

import random

import pytest

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.dial_purpose import LINK, NEIGHBOR, TRANSIENT, DialPurpose, punch
from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.transport.handshake.initiator import Initiator
from grapevine_proto.transport.handshakes import Handshakes
from grapevine_proto.wire import codec
from tests.proto.overlay.builders import KEY, config, identity, peer_id, record
from tests.proto.transport.ends import OTHER_KEY
from tests.proto.transport.nodes import Network, linked

OURS, THEIRS, OTHERS = 1, peer_id(2), peer_id(3)
FIRST, SECOND = Address("10.0.0.2", 8000), Address("10.0.0.3", 8000)


def table(number: int = OURS, **limits: int) -> Handshakes:
    """The table of a node, whose dials time out after five seconds."""
    rng = random.Random(number)
    settings = config(limits=LimitsConfig(**limits), connection_timeout=5.0)
    return Handshakes(
        LiveConfig(settings), identity(number), rng=rng, entropy=rng.randbytes, now=0.0
    )


def begin(
    handshakes: Handshakes,
    address: Address,
    expected: PeerId | None = THEIRS,
    purpose: DialPurpose = LINK,
    delay_s: float = 0.0,
) -> Initiator:
    """A dial."""
    handshakes.dial(address, expected, record(OURS), 0.0, purpose, delay_s=delay_s)
    return [*handshakes._dials.values()][-1]


def reply_to(dial: Initiator, responder: Handshakes, now: float = 0.0) -> bytes:
    """What the responder answers to what `dial` sends now."""
    [datagram] = dial.transmit(now)
    packet = codec.decode_packet(datagram)
    assert isinstance(packet, codec.Hello | codec.Proof)
    return responder.on_initial(packet, datagram, FIRST, record(2), now, exempt=False)


def deliver(handshakes: Handshakes, reply: bytes, now: float) -> Initiator | DropReason:
    """Delivers a reply; returns its dial, or why it was dropped."""
    packet = codec.decode_packet(reply)
    assert isinstance(packet, codec.Challenge | codec.Welcome)
    try:
        return handshakes.on_response(packet, reply, FIRST, now)
    except Dropped as dropped:
        return dropped.reason


def test_a_peer_is_being_dialed_until_the_last_dial_for_it_ends() -> None:
    handshakes = table()
    begin(handshakes, FIRST, None)
    assert not handshakes.is_dialing(THEIRS)
    sessions = [begin(handshakes, at).session_id for at in (FIRST, SECOND)]
    assert handshakes.is_dialing(THEIRS)
    assert handshakes.end_dial(sessions[0]) is not None
    assert handshakes.end_dial(sessions[0]) is None
    assert handshakes.is_dialing(THEIRS)
    handshakes.end_dial(sessions[1])
    assert not handshakes.is_dialing(THEIRS)
    begin(handshakes, FIRST)
    handshakes.cancel_dials()
    assert not handshakes.is_dialing(THEIRS)
    assert len(handshakes) == 0


def test_dials_may_start_up_to_their_limit() -> None:
    handshakes = table(dials=2)
    begin(handshakes, FIRST)
    assert handshakes.can_dial
    begin(handshakes, SECOND)
    assert not handshakes.can_dial


def test_a_dial_uses_the_first_key_of_the_cluster() -> None:
    network = Network(1, keys=(KEY, OTHER_KEY))
    network[1].dial(FIRST, THEIRS)
    [dial] = network[1].transport.handshakes._dials.values()
    assert dial.key == KEY


def test_a_link_has_one_rekey_at_a_time() -> None:
    _, one, two = linked()
    handshakes, link = one.transport.handshakes, one.link_to(two)
    for _ in range(2):
        handshakes.rekey(link, record(OURS), 0.0, LINK)
    [dial] = handshakes._dials.values()
    assert (dial.address, dial.expected, dial.purpose) == (link.address, two.peer_id, LINK)


# --- one peer at several addresses --------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected", "purpose", "is_sibling"),
    [
        (SECOND, THEIRS, LINK, True),
        (SECOND, THEIRS, NEIGHBOR, True),
        (FIRST, THEIRS, LINK, False),
        (SECOND, OTHERS, LINK, False),
        (SECOND, None, LINK, False),
        (SECOND, THEIRS, TRANSIENT, False),
    ],
)
def test_siblings_are_dials_of_one_peer_at_other_addresses_for_one_kind_of_session(
    address: Address, expected: PeerId | None, purpose: DialPurpose, is_sibling: bool
) -> None:
    handshakes = table()
    dial = begin(handshakes, FIRST)
    other = begin(handshakes, address, expected, purpose)
    assert handshakes.has_siblings(dial) is handshakes.has_siblings(other) is is_sibling
    handshakes.end_siblings(dial)
    assert len(handshakes) == (1 if is_sibling else 2)


def test_dials_of_any_peer_that_answers_have_no_siblings() -> None:
    handshakes = table()
    dials = [begin(handshakes, at, None) for at in (FIRST, SECOND)]
    assert not any(map(handshakes.has_siblings, dials))


def test_after_a_challenge_those_of_other_addresses_are_dropped_for_a_second() -> None:
    handshakes, responder = table(), table(2)
    first, second = (begin(handshakes, at) for at in (FIRST, SECOND))
    replies = [reply_to(each, responder) for each in (first, second)]
    assert deliver(handshakes, replies[0], 0.5) is first
    assert deliver(handshakes, replies[1], 1.49) is DropReason.UNEXPECTED
    assert deliver(handshakes, replies[1], 1.5) is second


def test_only_challenges_wait_for_another_address() -> None:
    handshakes, responder = table(), table(2)
    first, second = (begin(handshakes, at) for at in (FIRST, SECOND))
    challenges = [reply_to(each, responder) for each in (first, second)]
    deliver(handshakes, challenges[0], 0.0)
    deliver(handshakes, challenges[1], 1.0)
    assert deliver(handshakes, reply_to(first, responder, 1.1), 1.1) is first


def test_a_reply_to_no_dial_is_dropped() -> None:
    handshakes, responder = table(), table(2)
    reply = reply_to(begin(table(3), FIRST), responder)
    begin(handshakes, FIRST)
    assert deliver(handshakes, reply, 0.0) is DropReason.UNEXPECTED


# --- finding dials ------------------------------------------------------------------------------


def test_a_dial_is_found_by_its_address_its_peer_and_its_kind_of_session() -> None:
    handshakes = table()
    dial = begin(handshakes, FIRST)
    transient = begin(handshakes, SECOND, THEIRS, TRANSIENT)
    assert handshakes.find(FIRST, THEIRS, is_transient=False) is dial
    assert handshakes.find(SECOND, THEIRS, is_transient=True) is transient
    assert handshakes.find(FIRST, THEIRS, is_transient=True) is None
    assert handshakes.find(SECOND, THEIRS, is_transient=False) is None
    assert handshakes.find(FIRST, OTHERS, is_transient=False) is None
    assert handshakes.sessions_dialing(FIRST) == [dial.session_id]


def test_a_peer_is_punched_at_the_host_where_an_introduction_made_a_dial() -> None:
    handshakes = table()
    begin(handshakes, FIRST)
    begin(handshakes, SECOND, OTHERS, punch(LINK))
    assert not handshakes.is_punching(THEIRS, FIRST.host), "nobody introduced it"
    assert handshakes.is_punching(OTHERS, SECOND.host)
    assert not handshakes.is_punching(OTHERS, FIRST.host)
    assert not handshakes.is_punching(THEIRS, SECOND.host)


# --- time ---------------------------------------------------------------------------------------


def test_a_dial_without_a_delay_is_due_at_once() -> None:
    handshakes = table()
    handshakes.dial(FIRST, THEIRS, record(OURS), 5.0)
    assert handshakes.deadline == 5.0


def test_each_dial_is_sent_when_it_is_due_and_ends_at_its_timeout() -> None:
    handshakes = table()
    later, sooner = begin(handshakes, FIRST, delay_s=0.5), begin(handshakes, SECOND, delay_s=0.25)
    assert handshakes.deadline == 0.25
    assert handshakes.transmit(0.2) == []
    assert [to for _, to in handshakes.transmit(0.25)] == [SECOND]
    assert handshakes.deadline == 0.5
    assert FIRST in [to for _, to in handshakes.transmit(0.5)]
    handshakes.end_dial(later.session_id)
    assert handshakes.expired_dials(4.99) == []
    assert handshakes.expired_dials(5.0) == [sooner.session_id]


def test_an_unconfirmed_session_of_a_peer_ends_with_its_timeout() -> None:
    handshakes, responder = table(), table(2)
    dial = begin(handshakes, FIRST)
    deliver(handshakes, reply_to(dial, responder), 0.0)
    reply_to(dial, responder)
    assert responder._responder.pending == 1
    assert responder.deadline == 20.0
    responder.advance(20.0)
    assert responder._responder.pending == 0
    assert responder.evicted == 0
