"""How the state of a node is encoded in its state directory: the whole of it, and changes.

Invariants:

- What is decoded is what was encoded: every record has a checksum, every number a range.
- A journal belongs to one state file: its records are chained, from the checksum of that file on. So what
  remains of another journal is never taken for this one's.
- A record that was written half ends the journal; everything before it counts.
- A state without entries or changes is encoded as earlier versions did, which ignore the journal.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgpack

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.engine import NodeState, SavedEntry, SavedStream
from grapevine_proto.ids import (
    EPOCH_LIMIT,
    SEQUENCE_LIMIT,
    Address,
    PeerId,
    Stream,
    join_host_port,
)
from grapevine_proto.wire.entry_terms import MAX_VALUE_BYTES

MAGIC: Final = b"grapevine state 1\n"  # another layout gets another number
JOURNAL_MAGIC: Final = b"grapevine state changes 1\n"
CHECKSUM_BYTES: Final = 16
DECODE_ERRORS: Final = (ValueError, TypeError, RecursionError, OverflowError, MemoryError)

_LENGTH: Final = struct.Struct("!I")

Version = tuple[int, int]  # of an entry: epoch and sequence


class StateChanges(NamedTuple):
    """What changed since the save before: `state` has the streams that changed or appeared, the new entries
    and all peers. `elapsed_s` is the time since the whole state was saved."""

    state: NodeState
    elapsed_s: float
    removed_streams: tuple[Stream, ...] = ()
    removed_entries: tuple[Version, ...] = ()


def encode_state(saved: NodeState) -> bytes:
    """Returns the content of the state file: a checksum, then everything in `saved` except the seed. Entries
    and coordinate are left out if there are none."""
    entries = _pack_entries(saved)
    coordinate = (saved.coordinate,) if saved.coordinate else ()
    more = (entries, *coordinate) if entries or coordinate else ()
    body = msgpack.packb((saved.epoch, _pack_streams(saved), _pack_peers(saved), *more))
    return MAGIC + _checksum(body) + body


def decode_state(data: bytes) -> NodeState:
    """Returns what `encode_state` was given, without the seed; files of earlier versions have no entries
    and no coordinate. Raises one of `DECODE_ERRORS`."""
    start = len(MAGIC) + CHECKSUM_BYTES
    body = data[start:]
    if not data.startswith(MAGIC) or checksum_of(data) != _checksum(body):
        raise ValueError("not a whole state file")
    epoch, streams, peers, *more = _unpack(body)
    if len(more) > 2:
        raise ValueError("of a later version")
    entries = more[0] if more else ()
    coordinate = more[1] if len(more) > 1 else b""
    return _to_state(epoch, streams, peers, entries, coordinate)


def checksum_of(state: bytes) -> bytes:
    """Returns the checksum that an encoded state states, on which its journal is chained."""
    return state[len(MAGIC) : len(MAGIC) + CHECKSUM_BYTES]


def encode_changes(changes: StateChanges, previous: bytes) -> tuple[bytes, bytes]:
    """Returns the next record of a journal, and its checksum. `previous` is the checksum of the record before
    it, or of the state."""
    state = changes.state
    body = msgpack.packb(
        (
            float(changes.elapsed_s),
            state.epoch,
            _pack_streams(state),
            tuple((bytes(origin), epoch) for origin, epoch in changes.removed_streams),
            _pack_peers(state),
            _pack_entries(state),
            changes.removed_entries,
            state.coordinate,
        )
    )
    checksum = _checksum(previous, body)
    return _LENGTH.pack(len(body)) + checksum + body, checksum


def decode_changes(journal: bytes, previous: bytes) -> tuple[list[StateChanges], bool]:
    """Returns the changes to the state with the checksum `previous`, oldest first, and whether more follow
    that are damaged. A last record that was written half is not damage, nor is the journal of another
    state."""
    found: list[StateChanges] = []
    head = JOURNAL_MAGIC + previous
    if not journal.startswith(head):
        return found, False
    start = len(head)
    while (begin := start + _LENGTH.size + CHECKSUM_BYTES) <= len(journal):
        (size,) = _LENGTH.unpack_from(journal, start)
        body = journal[begin : begin + size]
        if len(body) < size:
            break
        previous = _checksum(previous, body)
        if previous != journal[begin - CHECKSUM_BYTES : begin]:
            return found, True
        found.append(_to_changes(*_unpack(body)))
        start = begin + size
    return found, False


def apply_changes(saved: NodeState, changes: list[StateChanges]) -> NodeState:
    """Returns `saved` with `changes` made to it, as of the last one."""
    if not changes:
        return saved
    latest = changes[-1]
    streams = {Stream(each.origin, each.epoch): (each, 0.0) for each in saved.streams}
    entries = {(each.epoch, each.sequence): (each, 0.0) for each in saved.entries}
    for each in changes:
        for stream in each.removed_streams:
            streams.pop(stream, None)
        for version in each.removed_entries:
            entries.pop(version, None)
        for one in each.state.streams:
            streams[Stream(one.origin, one.epoch)] = (one, each.elapsed_s)
        for entry in each.state.entries:
            entries[entry.epoch, entry.sequence] = (entry, each.elapsed_s)
    now = latest.elapsed_s
    aged = [
        replace(one, idle_s=one.idle_s + max(now - saved_at, 0.0))
        for one, saved_at in streams.values()
    ]
    aged.sort(key=lambda one: one.idle_s)  # should there be no room for all, the latest are kept
    return replace(
        saved,
        epoch=max(saved.epoch, *(each.state.epoch for each in changes)),
        streams=tuple(aged),
        peers=latest.state.peers,
        coordinate=latest.state.coordinate or saved.coordinate,
        entries=tuple(
            entry._replace(age_s=entry.age_s + max(now - saved_at, 0.0))
            for entry, saved_at in entries.values()
        ),
    )


def _checksum(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=CHECKSUM_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _pack_streams(saved: NodeState) -> tuple[Any, ...]:
    return tuple(
        (bytes(each.origin), each.epoch, each.high, each.gaps, _age_s(each.idle_s))
        for each in saved.streams
    )


def _pack_peers(saved: NodeState) -> tuple[Any, ...]:
    return tuple((bytes(peer), address.host, address.port) for peer, address in saved.peers)


def _pack_entries(saved: NodeState) -> tuple[Any, ...]:
    return tuple((*each[:-1], _age_s(each.age_s)) for each in saved.entries)


def _age_s(value: float) -> float:
    """What arrived while a state was being computed is as old as nothing, not younger."""
    return max(float(value), 0.0)


def _unpack(body: bytes) -> Any:
    return msgpack.unpackb(
        body,
        use_list=False,
        strict_map_key=True,
        max_array_len=len(body),
        max_bin_len=MAX_VALUE_BYTES,
        max_str_len=64,
        max_map_len=0,
        max_ext_len=0,
    )


def _to_state(epoch: Any, streams: Any, peers: Any, entries: Any, coordinate: Any) -> NodeState:
    return NodeState(
        b"",
        _check_integer(epoch, EPOCH_LIMIT),
        tuple(_to_stream(*each) for each in streams),
        tuple((PeerId(peer), _to_address(host, port)) for peer, host, port in peers),
        tuple(_to_entry(*each) for each in entries),
        _check_coordinate(coordinate),
    )


def _to_changes(
    elapsed_s: Any,
    epoch: Any,
    streams: Any,
    removed_streams: Any,
    peers: Any,
    entries: Any,
    removed_entries: Any,
    coordinate: Any,
) -> StateChanges:
    return StateChanges(
        _to_state(epoch, streams, peers, entries, coordinate),
        _check_duration(elapsed_s),
        tuple(
            Stream(PeerId(origin), _check_integer(each, EPOCH_LIMIT))
            for origin, each in removed_streams
        ),
        tuple(
            (_check_integer(each, EPOCH_LIMIT), _check_integer(sequence, SEQUENCE_LIMIT))
            for each, sequence in removed_entries
        ),
    )


def _check_integer(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError("not a whole number in range")
    return value


def _check_coordinate(value: Any) -> bytes:
    if type(value) is not bytes:
        raise ValueError("not bytes")
    if value:
        Coordinate.parse(value)
    return value


def _check_duration(value: Any) -> float:
    if type(value) is not float or not 0 <= value < math.inf:
        raise ValueError("not a duration")
    return value


def _to_stream(origin: Any, epoch: Any, high: Any, gaps: Any, idle_s: Any) -> SavedStream:
    high = _check_integer(high, SEQUENCE_LIMIT)
    ranges = tuple(
        (_check_integer(first, high + 1), _check_integer(last, high + 1)) for first, last in gaps
    )
    if any(first > last for first, last in ranges):
        raise ValueError("gap ends before it starts")
    return SavedStream(
        origin=PeerId(origin),
        epoch=_check_integer(epoch, EPOCH_LIMIT),
        high=high,
        gaps=ranges,
        idle_s=_check_duration(idle_s),
    )


def _to_entry(
    epoch: Any, sequence: Any, value: Any, signature: Any, attributes: Any, age_s: Any
) -> SavedEntry:
    if not type(value) is type(signature) is type(attributes) is bytes:
        raise ValueError("not bytes")
    return SavedEntry(
        _check_integer(epoch, EPOCH_LIMIT),
        _check_integer(sequence, SEQUENCE_LIMIT),
        value,
        signature,
        attributes,
        _check_duration(age_s),
    )


def _to_address(host: Any, port: Any) -> Address:
    address = Address.parse(join_host_port(host, _check_integer(port, 65536)))
    if address.port != port:
        raise ValueError("not a port")
    return address
