"""The map of one owner: what it takes, what it refuses, and that no deleted key returns."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from grapevine_proto.crypto.identity import digest
from grapevine_proto.ids import MessageId
from grapevine_proto.overlay.state.owner_map import (
    MAX_ENTRIES,
    MAX_KEYS,
    MAX_MAP_BYTES,
    Entry,
    OwnerMap,
    add_hashes,
    entry_hash,
)
from grapevine_proto.wire.entry_terms import NO_VERSION, EntryTerms
from grapevine_proto.wire.signed import Rumor
from tests.proto.overlay.builders import EPOCH, peer_id
from tests.proto.overlay.state.owners import Owner, entries_of, entry_of


def values(owner_map: OwnerMap) -> dict[str, bytes | None]:
    return {key: each.value_at(0.0) for key, each in owner_map.entries.items()}


def a_map(*rumors: Rumor) -> OwnerMap:
    owner_map = OwnerMap(peer_id(1))
    for each in rumors:
        owner_map.apply(entry_of(each))
    return owner_map


def test_entries_are_taken_in_their_order() -> None:
    owner = Owner(1)
    copy = a_map(owner.write("a", b"1"), owner.write("b", b"2"), owner.write("a", b"3"))
    assert values(copy) == {"b": b"2", "a": b"3"}
    assert (copy.version, copy.digest) == (owner.map.version, owner.map.digest)
    assert (copy.keys, copy.bytes, copy.head) == (2, 4, owner.map.head)
    assert not copy.is_conflicted
    assert copy.departed_at == math.inf


def test_an_entry_has_its_value_until_its_time_to_live_is_over() -> None:
    owner = Owner(1)
    entry = entry_of(owner.write("a", b"1", ttl_s=30), published_at=100.0)
    assert (entry.value_at(129.9), entry.value_at(130.0)) == (b"1", None)
    remaining = [entry.remaining_ttl_s(now) for now in (100.0, 100.5, 101.0, 129.5, 200.0)]
    assert remaining == [30, 30, 29, 1, 1]


def test_an_entry_without_a_time_to_live_never_ends() -> None:
    entry = entry_of(Owner(1).write("a", b"1"), published_at=100.0)
    assert entry.value_at(1e9) == b"1"
    assert entry.remaining_ttl_s(1e9) == 0


def test_the_hash_of_an_entry_covers_all_that_its_owner_says() -> None:
    terms = EntryTerms("a", clock=7, ttl_s=30, is_deleted=True, is_durable=True)
    parts = (b"grapevine entry 1", EPOCH, 5, "a", 7, 30, 1 + 2, b"value")
    expected = int.from_bytes(digest(*parts, size=16), "big")
    assert entry_hash((EPOCH, 5), terms, b"value") == expected
    assert add_hashes((1 << 128) - 1, added=(2, 3), removed=(1,)) == 3


def test_an_entry_with_a_topic_is_a_retained_message_until_it_is_deleted() -> None:
    owner = Owner(1)
    rumors = [owner.write("retain/a", b"1", topic="deploy"), owner.write("a", b"1")]
    rumors.append(owner.write("retain/a", None, topic="deploy"))
    assert [entry_of(each).is_retained for each in rumors] == [True, False, False]
    first = entry_of(rumors[0])
    assert (first.topic, first.id) == ("deploy", MessageId(peer_id(1), EPOCH, 1))


def test_each_entry_counts_a_kibibyte_besides_key_and_value() -> None:
    owner = Owner(1)
    copy = a_map(owner.write("a", b"123"), owner.write("b", b"1"), owner.delete("b"))
    assert copy.memory_bytes == 2 * 1024 + 4


def test_a_rumor_that_is_not_one_valid_entry_carries_none() -> None:
    whole, deleted = Owner(1).write("a", b"12"), Owner(1).delete("a")
    two = replace(whole, lengths=(1, 1))
    without_body = whole.without_body()
    too_large = replace(whole, lengths=(4097,), body=bytes(4097))
    with_value = replace(deleted, lengths=(1,), body=b"1")
    for each in (two, without_body, too_large, with_value):
        assert Entry.from_rumor(each, 0.0) is None
    largest = replace(whole, lengths=(4096,), body=bytes(4096))
    assert Entry.from_rumor(largest, 0.0) is not None


def test_an_entry_after_one_that_is_missing_is_not_taken() -> None:
    owner = Owner(1)
    first, second = owner.write("a", b"1"), owner.write("b", b"2")
    copy = a_map(second)
    assert not copy.entries
    assert copy.apply(entry_of(first)) is not None
    assert copy.apply(entry_of(second)) is not None


def test_nothing_that_is_not_newer_changes_a_map() -> None:
    owner = Owner(1)
    set_a, deleted = owner.write("a", b"1"), owner.delete("a")
    copy = a_map(set_a, deleted)
    for each in (set_a, deleted):
        assert copy.apply(entry_of(each)) is None
        assert copy.merge([entry_of(each)]) is None
    assert values(copy) == {"a": None}


def test_a_delta_is_taken_if_it_is_contiguous() -> None:
    owner = Owner(1)
    copy = a_map(owner.write("a", b"1"), owner.write("b", b"1"))
    version = copy.version
    for number in range(5):
        owner.write("a", b"%d" % number)
    owner.delete("b")
    owner.write("c", b"3")
    delta = owner.map.above(version)
    assert [each.key for each in delta] == ["a", "b", "c"]
    for partial in (delta[1:], delta[:1] + delta[2:], delta[2:]):
        assert copy.merge(partial) is None
    assert values(copy) == {"a": b"1", "b": b"1"}
    changes = copy.merge(delta)
    assert changes is not None
    assert [(c.before and c.before.key, c.after and c.after.key) for c in changes] == [
        ("a", "a"),
        ("b", "b"),
        (None, "c"),
    ]
    assert copy.head == owner.map.head


def test_a_node_below_the_collected_version_gets_a_reset_and_forgets_the_deleted_key() -> None:
    owner = Owner(1)
    copy = a_map(owner.write("a", b"1"), owner.write("b", b"1"))
    version = copy.version
    owner.delete("a")
    owner.write("c", b"1", collected=(EPOCH, owner.sequence))
    assert list(owner.map.entries) == ["b", "c"]
    reset = owner.map.above(version)
    assert [each.key for each in reset] == ["b", "c"]
    changes = copy.merge(reset)
    assert changes is not None
    assert [c.before.key for c in changes if c.before and c.after is None] == ["a"]
    assert (values(copy), copy.head) == ({"b": b"1", "c": b"1"}, owner.map.head)


def test_a_reset_with_an_old_entry_in_place_of_a_new_one_is_not_taken() -> None:
    owner = Owner(1)
    old = owner.write("a", b"1")
    owner.delete("a")
    keep = owner.write("b", b"1", collected=(EPOCH, owner.sequence))
    fresh = OwnerMap(peer_id(1))
    assert fresh.merge(entries_of(old, keep)) is None
    assert not fresh.entries
    assert fresh.merge(entries_of(keep)) is not None


def test_collected_keys_are_forgotten_by_all_copies_alike() -> None:
    owner = Owner(1)
    rumors = [owner.write("a", b"1"), owner.delete("a"), owner.delete("b")]
    rumors.append(owner.write("c", b"1", collected=(EPOCH, 2)))
    copy = a_map(*rumors)
    assert list(copy.entries) == list(owner.map.entries) == ["b", "c"]
    assert copy.head == owner.map.head
    assert copy.above((EPOCH, 1)) == owner.map.above(NO_VERSION) or len(copy.above((EPOCH, 1))) == 2


def test_of_several_entries_of_a_key_a_delta_brings_the_newest_in_any_order() -> None:
    owner = Owner(1)
    first, second = owner.write("a", b"1"), owner.write("a", b"2")
    for given in ((first, second), (second, first)):
        fresh = OwnerMap(peer_id(1))
        assert fresh.merge(entries_of(*given)) is not None
        assert values(fresh) == {"a": b"2"}


def test_a_delta_reports_what_it_changes_alone() -> None:
    owner = Owner(1)
    known = owner.write("a", b"1")
    copy = a_map(known)
    assert copy.above(copy.version) == []
    changes = copy.merge(entries_of(known, owner.write("b", b"1")))
    assert changes is not None
    assert [change.after and change.after.key for change in changes] == ["b"]


def test_maps_of_another_content_or_owner_have_another_head() -> None:
    maps = [a_map(Owner(1).write("a", value)) for value in (b"1", b"2")]
    other = OwnerMap(peer_id(2))
    assert other.apply(entry_of(Owner(2).write("a", b"1"))) is not None
    assert len({0, maps[0].head, maps[1].head, other.head}) == 4
    assert OwnerMap(peer_id(1)).head == 0
    assert OwnerMap(peer_id(1)).above(NO_VERSION) == []


def test_a_new_epoch_outranks_the_one_before() -> None:
    owner = Owner(1)
    copy = a_map(owner.write("a", b"1"))
    owner.epoch, owner.sequence = EPOCH + 1, 0
    assert copy.apply(entry_of(owner.write("a", b"2"))) is not None
    assert copy.version == (EPOCH + 1, 1)


def test_a_map_has_a_limited_number_of_keys() -> None:
    owner = Owner(1)
    rumors = [owner.write(f"k{number}", b"") for number in range(MAX_KEYS)]
    copy = a_map(*rumors)
    assert copy.keys == MAX_KEYS
    beyond = entry_of(owner.signed("one more", b""))
    assert copy.apply(beyond) is None
    assert copy.merge([beyond]) is None
    assert copy.apply(entry_of(owner.write("k0", b"again"))) is not None


def test_a_map_has_a_limited_size() -> None:
    owner = Owner(1)
    rumors = [owner.write(f"k{number:02}", bytes(4093)) for number in range(16)]
    copy = a_map(*rumors)
    assert copy.bytes == MAX_MAP_BYTES
    assert copy.apply(entry_of(owner.signed("x", b""))) is None
    assert copy.apply(entry_of(owner.write("k00", bytes(4000)))) is not None


def test_a_map_has_a_limited_number_of_entries_with_the_deleted_ones() -> None:
    owner = Owner(1)
    rumors = [owner.delete(f"k{number}") for number in range(MAX_ENTRIES)]
    copy = a_map(*rumors)
    assert len(copy.entries) == MAX_ENTRIES
    assert copy.apply(entry_of(owner.signed("one more", None))) is None
    assert copy.apply(entry_of(owner.write("a", b"", collected=(EPOCH, 2)))) is not None


def test_copies_that_hear_everything_in_any_order_or_as_deltas_agree() -> None:
    rng = random.Random(3)
    for _ in range(20):
        owner, copy, behind = Owner(1), OwnerMap(peer_id(1)), OwnerMap(peer_id(1))
        for _ in range(60):
            key = rng.choice("abcdef")
            collected = (EPOCH, rng.randrange(owner.sequence)) if owner.sequence > 5 else NO_VERSION
            rumor = owner.write(
                key,
                rng.choice([None, b"1", b"2"]),
                collected=collected if rng.random() < 0.2 else NO_VERSION,
            )
            if copy.apply(entry_of(rumor)) is None:
                copy.merge(owner.map.above(copy.version))
            if rng.random() < 0.1:
                behind.merge(owner.map.above(behind.version))
                assert behind.head == owner.map.head
            assert copy.head == owner.map.head
            assert values(copy) == values(owner.map)
