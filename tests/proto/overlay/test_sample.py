"""Trace sampling: every node computes the same sample."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.sample import MemberSample, sample_share
from grapevine_proto.wire.attributes import TRACE_ALL, rumor_attributes
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, identity, peer_id
from tests.proto.overlay.trace.traces import message_id


@pytest.mark.parametrize("members", [0, 1, 99, 100])
def test_up_to_a_hundred_members_are_all_sampled(members: int) -> None:
    assert sample_share(members) == TRACE_ALL
    assert peer_id(1) in MemberSample("default", message_id(), TRACE_ALL)


@pytest.mark.parametrize("members", [101, 1000, 10_000])
def test_about_a_hundred_members_of_a_larger_cluster_are_sampled(members: int) -> None:
    rng = random.Random(3)
    member_ids = [PeerId(rng.randbytes(32)) for _ in range(members)]
    sample = MemberSample("default", message_id(), sample_share(members))
    assert 65 <= sum(member in sample for member in member_ids) <= 140


def test_each_message_has_its_own_sample_on_which_all_nodes_agree() -> None:
    rng = random.Random(3)
    members = [PeerId(rng.randbytes(32)) for _ in range(1000)]
    first_sample, second_sample = (
        {
            each
            for each in members
            if each in MemberSample("default", message_id(n), sample_share(1000))
        }
        for n in (1, 2)
    )
    assert len(first_sample & second_sample) < 30
    resampled = MemberSample("default", message_id(1), sample_share(1000))
    assert first_sample == {each for each in members if each in resampled}


def test_the_smallest_share_is_not_zero() -> None:
    assert sample_share(10_000_000) == 1


@pytest.mark.parametrize("count", [1, 2, 25, 49])
def test_the_share_for_a_number_of_members_samples_just_as_many(count: int) -> None:
    members = [peer_id(number) for number in range(50)]
    share = MemberSample("default", message_id(), TRACE_ALL).share_for(count, members)
    sample, smaller = (MemberSample("default", message_id(), each) for each in (share, share - 1))
    assert sum(member in sample for member in members) == count
    assert sum(member in smaller for member in members) == count - 1


def test_the_share_for_all_members_is_the_whole() -> None:
    members = [peer_id(number) for number in range(50)]
    for count in (50, 51):
        assert MemberSample("default", message_id(), 1).share_for(count, members) == TRACE_ALL


def test_the_share_is_covered_by_the_signature() -> None:
    signed = Rumor.signed(
        identity(1), "default", EPOCH, 1, (b"x",), attributes=rumor_attributes(trace_share=300)
    )
    assert signed.is_authentic("default")
    for share in (0, 299, TRACE_ALL):
        assert not replace(signed, attributes=rumor_attributes(trace_share=share)).is_authentic(
            "default"
        )
