"""The bundle: payloads in order, within its bytes."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.events import Message, Via
from grapevine_proto.ids import MessageId
from grapevine_proto.publisher import Batch
from grapevine_proto.wire.signed import MAX_PAYLOADS_PER_MESSAGE, counted_payload_bytes
from tests.proto.overlay.builders import EPOCH, peer_id


def message(sequence: int, payload: bytes) -> Message:
    return Message(MessageId(peer_id(1), EPOCH, sequence), payload, 0, Via.LOCAL, 0.0)


def test_it_is_open_from_the_first_payload_until_it_is_closed() -> None:
    bundle = Batch(100)
    assert bundle.opened_at == math.inf
    bundle.add(message(1, b"one"), 5.0)
    bundle.add(message(2, b"two"), 6.0)
    assert (len(bundle), bundle.opened_at) == (2, 5.0)
    assert [each.payload for each in bundle.drain()] == [b"one", b"two"]
    assert (len(bundle), bundle.opened_at, bundle.drain()) == (0, math.inf, [])


def test_one_payload_may_be_larger_than_the_limit_but_then_it_is_alone() -> None:
    bundle = Batch(10)
    assert bundle.fits(bytes(100))
    bundle.add(message(1, bytes(100)), 0.0)
    assert not bundle.fits(b"")


def test_it_holds_no_more_payloads_than_a_rumor_may() -> None:
    bundle = Batch(2**20)
    for sequence in range(1, MAX_PAYLOADS_PER_MESSAGE + 1):
        assert bundle.fits(b"")
        bundle.add(message(sequence, b""), 0.0)
    assert not bundle.fits(b"")


@given(st.integers(1, 2000), st.lists(st.integers(0, 400), max_size=60))
def test_what_fits_never_comes_to_more_than_the_limit(limit: int, sizes: list[int]) -> None:
    bundle = Batch(limit)
    for sequence, size in enumerate(sizes, 1):
        if bundle.fits(bytes(size)):
            bundle.add(message(sequence, bytes(size)), 0.0)
    taken = [counted_payload_bytes(len(each.payload)) for each in bundle.drain()]
    assert sum(taken) <= limit or len(taken) == 1
