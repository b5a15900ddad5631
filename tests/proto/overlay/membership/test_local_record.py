"""This node's own record: when it is signed again, and what a record of another on our identity causes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grapevine_proto.config.live import LiveConfig
from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.coordinate import Coordinate
from grapevine_proto.errors import DropReason
from grapevine_proto.events import IdentityInUse
from grapevine_proto.ids import Address
from grapevine_proto.overlay.effects import BumpEpoch, CountDrop, Effect, Emit, Shutdown
from grapevine_proto.overlay.membership.local_record import LocalRecord
from grapevine_proto.wire.attributes import MAX_ACK_DELAY_LIMIT_MS
from grapevine_proto.wire.messages import MemberUpdate
from grapevine_proto.wire.signed import Accusation, PeerRecord
from tests.proto.overlay.builders import EPOCH, config, identity, peer_id

OURS, THEIRS, SENDER = Address("10.0.0.5", 8000), Address("10.0.0.9", 1), peer_id(2)
OUTSIDE = Address("203.0.113.9", 4000)


def make(**changes: Any) -> LocalRecord:
    return LocalRecord(LiveConfig(config(**changes)), identity(1), EPOCH, OURS)


def test_the_run_before_is_named_until_it_is_forgotten() -> None:
    live = LiveConfig(config())
    local = LocalRecord(live, identity(1), EPOCH, OURS, EPOCH - 9)
    assert (local.record.earlier_epoch, local.record.incarnation) == (EPOCH - 9, 0)
    assert local.forget_earlier_run()
    assert (local.record.earlier_epoch, local.record.incarnation) == (0, 1)
    assert local.record.is_authentic("default")
    assert not local.forget_earlier_run()
    local.start_epoch(EPOCH + 4)
    assert local.record.earlier_epoch == EPOCH, "what was published until now"
    local.bump_incarnation(left=True)
    assert not local.forget_earlier_run(), "a farewell is the last record"


def limits_in(rate_limit: RateLimitConfig) -> tuple[int, int]:
    record = make(rate_limit=rate_limit).record
    return record.rate_capacity, record.rate_refill


def test_the_first_record_is_authentic_and_names_this_node() -> None:
    local = make(zone="eu", name="ada")
    record = local.record
    assert record.is_authentic("default")
    assert (record.peer_id, record.version, record.left) == (peer_id(1), (EPOCH, 0), False)
    assert (record.addresses, record.zone, record.name) == ((OURS,), "eu", "ada")
    assert (local.peer_id, local.address) == (peer_id(1), OURS)


def test_a_configured_address_is_advertised_and_stays() -> None:
    local = make(advertise="198.51.100.7:9000")
    assert local.record.addresses == (Address("198.51.100.7", 9000),)
    assert not local.set_addresses((Address("10.1.1.1", 1),))


def test_nine_tenths_of_the_rate_limit_are_advertised_and_at_least_one() -> None:
    assert limits_in(RateLimitConfig(capacity=100, refill_rate=50.0)) == (90, 45)
    assert limits_in(RateLimitConfig(capacity=1, refill_rate=1.0)) == (1, 1)
    assert limits_in(RateLimitConfig(enabled=False)) == (0, 0)


def test_new_addresses_are_signed_once() -> None:
    local = make()
    new = (Address("10.1.1.1", 1), OURS)
    assert local.set_addresses(new)
    assert (local.record.addresses, local.record.incarnation) == (new, 1)
    assert local.record.is_authentic("default")
    assert not local.set_addresses(new)
    local.bump_incarnation(left=True)
    assert not local.set_addresses((OURS,))
    assert local.record.left


def test_a_record_has_at_most_four_addresses() -> None:
    local = make()
    local.set_addresses(tuple(Address(f"10.1.1.{number}", 1) for number in range(1, 7)))
    local.set_mapped(OUTSIDE)
    assert local.record.addresses == (
        OUTSIDE,
        *(Address(f"10.1.1.{number}", 1) for number in (1, 2, 3)),
    )


def test_a_mapped_address_is_signed_once_and_ends() -> None:
    local = make()
    assert local.set_mapped(OUTSIDE)
    assert (local.record.addresses, local.record.incarnation) == ((OUTSIDE, OURS), 1)
    assert not local.set_mapped(OUTSIDE)
    assert local.set_mapped(None)
    assert (local.record.addresses, local.record.incarnation) == ((OURS,), 2)


def test_the_observed_address_and_the_introducers_are_signed_once() -> None:
    local = make()
    assert local.set_reachability(OUTSIDE, (b"12345678",))
    assert local.record.addresses == (OUTSIDE, OURS)
    assert local.record.introducers == (b"12345678",)
    assert not local.set_reachability(OUTSIDE, (b"12345678",))
    assert local.record.incarnation == 1
    assert local.set_reachability(OUTSIDE, None)
    assert local.record.introducers is None


def test_nothing_is_signed_after_the_farewell() -> None:
    local = make()
    farewell = local.bump_incarnation(left=True)
    assert not local.set_reachability(OUTSIDE, (b"12345678",))
    assert not local.set_mapped(OUTSIDE)
    assert not local.set_addresses((OUTSIDE,))
    assert not local.set_coordinate(Coordinate((0.1,) * 8))
    assert local.record is farewell


def test_what_peers_saw_counts_until_another_address_is_configured() -> None:
    live = LiveConfig(config())
    local = LocalRecord(live, identity(1), EPOCH, OURS)
    local.set_reachability(OUTSIDE, None)
    live.replace(config(name="ada"))
    assert local.reconfigure()
    assert local.record.addresses == (OUTSIDE, OURS)
    live.replace(config(name="ada", advertise="198.51.100.7:9000"))
    assert local.reconfigure()
    assert local.addresses == (Address("198.51.100.7", 9000),)


def test_only_settings_in_the_record_sign_it_again() -> None:
    live = LiveConfig(config())
    local = LocalRecord(live, identity(1), EPOCH, OURS)
    live.replace(config(fanout=7))
    assert not local.reconfigure()
    live.replace(config(rate_limit=RateLimitConfig(capacity=1000)))
    assert local.reconfigure()
    assert (local.record.incarnation, local.record.rate_capacity) == (1, 900)
    assert not local.reconfigure()


def test_a_new_epoch_starts_at_incarnation_zero() -> None:
    local = make()
    local.bump_incarnation()
    local.bump_incarnation()
    assert local.record.version == (EPOCH, 2)
    local.start_epoch(EPOCH + 5)
    assert (local.record.version, local.record.left) == ((EPOCH + 5, 0), False)


# --- accusations --------------------------------------------------------------------------------


def suspicion(local: LocalRecord, accuser: int = 3, **changes: Any) -> MemberUpdate:
    accused = replace(local.record, **changes)
    return MemberUpdate(accused, (Accusation.signed(identity(accuser), "default", accused),))


def test_a_suspicion_is_refuted_with_the_next_incarnation_once_a_second() -> None:
    local = make()
    assert local.refute(suspicion(local), SENDER, 5.0) is True
    assert local.record.version == (EPOCH, 1)
    assert local.refute(suspicion(local), SENDER, 5.9) is False
    assert local.refute(suspicion(local), SENDER, 6.0) is True
    assert local.record.version == (EPOCH, 2)


def test_a_suspicion_of_another_incarnation_or_without_accusers_needs_no_refutation() -> None:
    local = make()
    assert local.refute(suspicion(local, incarnation=1), SENDER, 5.0) is False
    assert local.refute(MemberUpdate(local.record), SENDER, 5.0) is False
    local.bump_incarnation(left=True)
    assert local.refute(suspicion(local), SENDER, 5.0) is False


def test_a_forged_accusation_is_charged_to_its_sender() -> None:
    local = make()
    forged = MemberUpdate(local.record, (Accusation(peer_id(3), bytes(64)),))
    assert local.refute(forged, SENDER, 5.0) == CountDrop(SENDER, DropReason.BAD_SIGNATURE)
    assert local.record.incarnation == 0
    assert local.refute(suspicion(local), SENDER, 5.0) is True, "it used up no interval"


# --- another node on this identity --------------------------------------------------------------


def other_record(epoch: int, incarnation: int = 0, address: Address = THEIRS) -> PeerRecord:
    bare = PeerRecord(peer_id(1), epoch, incarnation, (address,), "", "", 90, 45, False)
    return bare.signed(identity(1), "default")


def kinds(effects: list[Effect]) -> list[type]:
    return [type(each) for each in effects]


def test_a_lower_version_or_our_own_record_is_no_conflict() -> None:
    local = make()
    local.bump_incarnation()
    assert local.on_own_record(local.record, SENDER) == []
    assert local.on_own_record(other_record(EPOCH, 0), SENDER) == []
    assert local.on_own_record(other_record(EPOCH - 1, 99), SENDER) == []
    assert local.on_own_record(other_record(EPOCH, 1, OURS), SENDER) == [], (
        "another signature of it"
    )


def test_a_forged_record_of_ours_is_charged_to_its_sender() -> None:
    forged = replace(other_record(EPOCH + 5), signature=bytes(64))
    assert make().on_own_record(forged, SENDER) == [CountDrop(SENDER, DropReason.BAD_SIGNATURE)]


def test_the_first_conflict_bumps_the_epoch() -> None:
    for version in ((EPOCH + 5, 0), (EPOCH, 1), (EPOCH, 0)):
        local = make()
        assert local.on_own_record(other_record(*version), SENDER) == [BumpEpoch(version[0])]
    later_at_our_address = other_record(EPOCH + 5, 0, OURS)
    assert make().on_own_record(later_at_our_address, SENDER) == [BumpEpoch(EPOCH + 5)]


@pytest.mark.parametrize(
    ("epoch", "was_linked", "address", "is_later"),
    [
        (EPOCH + 1, True, "10.0.0.9", True),
        (EPOCH + 2, True, "10.0.0.9", False),
        (EPOCH + 2, False, "10.0.0.9", True),
        (EPOCH, True, "10.0.0.4", True),
        (EPOCH, True, "10.0.0.6", False),
    ],
)
def test_at_the_second_conflict_the_later_node_stops(
    epoch: int, was_linked: bool, address: str, is_later: bool
) -> None:
    local = make()
    if was_linked:
        local.on_link_up()
    local.on_own_record(other_record(epoch, 3, Address(address, 8000)), SENDER)
    local.start_epoch(epoch + 1)
    effects = local.on_own_record(other_record(epoch + 2), SENDER)
    if is_later:
        [stop] = effects
        assert isinstance(stop, Shutdown)
        assert "in use by another node at 10.0.0.9:1, which was here first: " in stop.reason
    else:
        [report, bump] = effects
        assert isinstance(report, Emit)
        assert isinstance(report.event, IdentityInUse)
        assert report.event.address == Address("10.0.0.9", 1)
        assert bump == BumpEpoch(epoch + 2)


def test_the_seventeenth_conflict_stops_the_node_that_was_here_first_too() -> None:
    local = make()
    local.on_link_up()
    for conflict in range(1, 18):
        epoch = EPOCH + 10 * conflict
        effects = local.on_own_record(other_record(epoch), SENDER)
        assert (Shutdown in kinds(effects)) is (conflict == 17)
        local.start_epoch(epoch + 1)
    [stop] = effects
    assert isinstance(stop, Shutdown)
    assert "which was here first" not in stop.reason


def test_a_conflict_with_a_node_without_an_address_is_reported_too() -> None:
    local = make()
    local.on_link_up()
    for conflict in (1, 2):
        bare = replace(other_record(EPOCH + 10 * conflict), addresses=())
        effects = local.on_own_record(bare.signed(identity(1), "default"), SENDER)
    [report, _] = effects
    assert isinstance(report, Emit)
    assert isinstance(report.event, IdentityInUse)
    assert report.event.address is None
    assert report.event.problem.endswith("in use by another node")


def test_a_record_permits_acks_to_wait_for_two_batches() -> None:
    assert make().record.attributes == b""
    assert make(batch_delay=0.25).record.max_ack_delay_s == 0.5
    assert make(batch_delay=1.0).record.max_ack_delay_s == MAX_ACK_DELAY_LIMIT_MS / 1000
