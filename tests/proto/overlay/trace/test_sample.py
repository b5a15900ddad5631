"""Sample: who is asked, so that everybody agrees on it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.trace.sample import TraceSample, sample_share
from grapevine_proto.wire.signed import TRACE_ALL, Rumor
from tests.proto.overlay.builders import EPOCH, identity, peer_id
from tests.proto.overlay.trace.traces import message_id


@pytest.mark.parametrize("members", [0, 1, 99, 100])
def test_all_of_up_to_a_hundred_members_are_asked(members: int) -> None:
    assert sample_share(members) == TRACE_ALL
    assert peer_id(1) in TraceSample("default", message_id(), TRACE_ALL)


@pytest.mark.parametrize("members", [101, 1000, 10_000])
def test_about_a_hundred_of_more_are_asked(members: int) -> None:
    rng = random.Random(3)
    everyone = [PeerId(rng.randbytes(32)) for _ in range(members)]
    sample = TraceSample("default", message_id(), sample_share(members))
    assert 65 <= sum(member in sample for member in everyone) <= 140


def test_another_message_asks_others_and_every_node_agrees_whom() -> None:
    rng = random.Random(3)
    everyone = [PeerId(rng.randbytes(32)) for _ in range(1000)]
    one, other = (
        {
            each
            for each in everyone
            if each in TraceSample("default", message_id(n), sample_share(1000))
        }
        for n in (1, 2)
    )
    assert len(one & other) < 30
    again = TraceSample("default", message_id(1), sample_share(1000))
    assert one == {each for each in everyone if each in again}


def test_the_smallest_share_still_asks_somebody() -> None:
    assert sample_share(10_000_000) == 1


def test_nobody_on_the_way_can_ask_more_or_fewer_than_the_origin_did() -> None:
    signed = Rumor.signed(identity(1), "default", EPOCH, 1, (b"x",), trace_share=300)
    assert signed.is_authentic("default")
    for share in (0, 299, TRACE_ALL):
        assert not replace(signed, trace_share=share).is_authentic("default")
