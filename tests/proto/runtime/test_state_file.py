"""State directory: what persists, and what survives disk errors and crashes."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.coordinate import Coordinate
from grapevine_proto.engine import NodeState, SavedEntry, SavedStream
from grapevine_proto.errors import ConfigError, StateLockedError, StorageError
from grapevine_proto.ids import EPOCH_LIMIT, Address, PeerId, Stream
from grapevine_proto.runtime.state_encoding import (
    CHECKSUM_BYTES,
    JOURNAL_MAGIC,
    MAGIC,
    StateChanges,
    decode_changes,
    decode_state,
    encode_changes,
    encode_state,
)
from grapevine_proto.runtime.state_file import MIN_JOURNAL_BYTES, StateDirectory

UNIX_NOW = 1_700_000_000.7
STREAMS = (
    SavedStream(origin=PeerId(b"a" * 32), epoch=1_600_000_000, high=9, gaps=(), idle_s=0.0),
    SavedStream(origin=PeerId(b"b" * 32), epoch=7, high=50, gaps=((3, 4), (9, 9)), idle_s=12.5),
)
PEERS = (
    (PeerId(b"a" * 32), Address("10.0.0.1", 8000)),
    (PeerId(b"b" * 32), Address("2001:db8::1", 1)),
)


def load_once(path: Path, unix_now: float = UNIX_NOW) -> NodeState:
    """What a node starting now would get."""
    directory = StateDirectory(path)
    saved = directory.load(unix_now)
    directory.close()
    return saved


def filled(path: Path) -> NodeState:
    """A directory that a node with marks and peers left."""
    directory = StateDirectory(path)
    first = directory.load(UNIX_NOW)
    saved = NodeState(seed=first.seed, epoch=first.epoch, streams=STREAMS, peers=PEERS)
    directory.save(saved)
    directory.append(StateChanges(replace(saved, streams=()), 0.0))
    directory.close()
    return saved


class Killed(BaseException):
    """Stands for kill -9: nothing in the code under test catches it."""


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the process die before its `step`th call that changes the disk; a write that dies has
    written half."""
    calls = 0

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                if name == "write":
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                raise Killed
            return real(*args, **options)

        return call

    for name in ("open", "write", "fsync", "replace", "unlink"):
        monkeypatch.setattr(os, name, dying(name, getattr(os, name)))


def test_the_first_run_creates_an_identity_and_starts_its_epoch_at_the_wall_clock(
    tmp_path: Path,
) -> None:
    saved = load_once(tmp_path / "node")
    assert saved.epoch == int(UNIX_NOW)
    assert len(saved.seed) == 32
    assert (saved.streams, saved.peers) == ((), ())
    assert load_once(tmp_path / "other").seed != saved.seed


def test_a_later_run_has_the_same_identity_and_the_saved_state(tmp_path: Path) -> None:
    saved = filled(tmp_path)
    again = load_once(tmp_path, UNIX_NOW + 60)
    assert again == NodeState(
        seed=saved.seed,
        epoch=int(UNIX_NOW) + 60,
        streams=STREAMS,
        peers=PEERS,
        earlier_epoch=int(UNIX_NOW),
    )


def test_the_epoch_increases_with_every_run_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    epochs = [load_once(tmp_path, now).epoch for now in (UNIX_NOW, UNIX_NOW, 5.0, 0.0)]
    assert epochs == [int(UNIX_NOW) + each for each in range(4)]


def test_the_epoch_is_on_disk_when_load_returns(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    saved = directory.load(UNIX_NOW)
    assert decode_state((tmp_path / "state").read_bytes()).epoch == saved.epoch
    directory.close()


def test_an_identity_without_an_epoch_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no epoch left"):
        load_once(tmp_path, float(EPOCH_LIMIT))


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes")
def test_no_other_user_can_read_the_state(tmp_path: Path) -> None:
    filled(tmp_path / "node")
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700
    for path in (tmp_path / "node").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


OTHER = 65534  # another user
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
posix = pytest.mark.skipif(sys.platform == "win32", reason="no such modes and links")


def refusal(path: Path) -> str:
    """Returns the one-line error of a node that cannot use the directory, which stays unlocked."""
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            StateDirectory(path).load(UNIX_NOW)
        assert caught.value.field == "state_dir"
        assert "\n" not in str(caught.value)
    return str(caught.value)


@as_root
@pytest.mark.parametrize("name", ["", "identity", "state", "lock", "journal"])
def test_files_of_another_user_are_refused_and_left_unchanged(tmp_path: Path, name: str) -> None:
    path = tmp_path / "node"
    filled(path)
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    os.chown(path / name, OTHER, OTHER)
    assert f"{path / name}: belongs to" in refusal(path)
    assert {each.name: each.read_bytes() for each in path.iterdir()} == before


@as_root
def test_a_parent_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", OTHER, OTHER)
    assert "theirs belongs to" in refusal(tmp_path / "theirs" / "node")


@posix
@pytest.mark.parametrize(
    ("name", "mode"), [("", 0o777), ("identity", 0o644), ("lock", 0o666), ("journal", 0o644)]
)
def test_files_accessible_to_others_are_refused_with_the_remedy(
    tmp_path: Path, name: str, mode: int
) -> None:
    path = tmp_path / "node"
    filled(path)
    (path / name).chmod(mode)
    assert f"by others (mode {mode:04o}); run chmod" in refusal(path)


@posix
@pytest.mark.parametrize("name", ["identity", "state", "lock", "journal"])
def test_no_symlink_in_the_directory_is_followed(tmp_path: Path, name: str) -> None:
    dear = tmp_path / "dear"
    dear.write_text("dear to its owner")
    dear.chmod(0o600)
    path = tmp_path / "node"
    filled(path)
    (path / name).unlink()
    (path / name).symlink_to(dear)
    assert f"{path / name}: is a symbolic link" in refusal(path)
    (path / name).unlink()
    if name == "lock":
        os.link(dear, path / name)
        assert "has a second name" in refusal(path)
    assert dear.read_text() == "dear to its owner"


@posix
def test_a_directory_behind_an_own_symlink_is_used(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "node").symlink_to("there")
    assert load_once(tmp_path / "node").seed == load_once(tmp_path / "there").seed


@posix
@pytest.mark.parametrize("umask", [0, 0o077, 0o277, 0o777])
def test_everything_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        filled(tmp_path / "above" / "node")
    finally:
        os.umask(before)
    for path in (tmp_path / "above", tmp_path / "above" / "node"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (tmp_path / "above" / "node").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE])
def test_a_transient_disk_error_differs_from_an_invalid_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _raise(OSError(number, os.strerror(number))))
        with pytest.raises(StorageError, match=os.strerror(number)):
            StateDirectory(tmp_path / "node").load(UNIX_NOW)
    assert [each.name for each in (tmp_path / "node").iterdir()] == ["lock"]
    directory = StateDirectory(tmp_path / "node")
    directory.load(UNIX_NOW)
    assert directory.load_warning == ""
    directory.close()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _raise(OSError(errno.EACCES, "Permission denied")))
        with pytest.raises(ConfigError) as caught:
            StateDirectory(tmp_path / "node").load(UNIX_NOW)
    assert not isinstance(caught.value, StorageError)


@pytest.mark.parametrize("left", [b"", b"\0" * 65])
def test_an_empty_file_is_renamed_to_damaged(tmp_path: Path, left: bytes) -> None:
    filled(tmp_path)
    for name in ("identity", "state"):
        (tmp_path / name).write_bytes(left)
    directory = StateDirectory(tmp_path)
    assert directory.load(UNIX_NOW).streams == ()
    assert "identity.damaged" in directory.load_warning
    assert "state.damaged" in directory.load_warning
    directory.close()


def test_a_second_node_learns_the_directory_and_its_holder(tmp_path: Path) -> None:
    holder = StateDirectory(tmp_path)
    holder.load(UNIX_NOW)
    with pytest.raises(StateLockedError) as caught:
        StateDirectory(tmp_path).load(UNIX_NOW)
    assert str(tmp_path) in str(caught.value)
    assert str(os.getpid()) in str(caught.value)
    with pytest.raises(StateLockedError):
        holder.load(UNIX_NOW)
    holder.close()
    holder.close()
    load_once(tmp_path)


def test_a_failed_load_releases_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _raise(OSError(28, "No space left on device")))
        with pytest.raises(ConfigError, match="No space left on device") as caught:
            StateDirectory(tmp_path).load(UNIX_NOW)
    assert caught.value.field == "state_dir"
    load_once(tmp_path)


def test_a_save_that_was_queued_when_the_node_stopped_writes_nothing(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    saved = directory.load(UNIX_NOW)
    directory.close()
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(OSError, match="lock"):
        directory.save(saved)
    with pytest.raises(OSError, match="lock"):
        directory.append(changes(saved, 1.0))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files


def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        StateDirectory(tmp_path / "file" / "node").load(UNIX_NOW)


def test_a_full_disk_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = filled(tmp_path)
    directory = StateDirectory(tmp_path)
    directory.load(UNIX_NOW)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", _raise(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            directory.save(NodeState(seed=saved.seed, epoch=saved.epoch, streams=(), peers=()))
    directory.close()
    assert load_once(tmp_path).streams == STREAMS


@pytest.mark.parametrize("step", range(1, 16))
def test_a_kill_at_any_step_of_a_save_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    saved = filled(tmp_path)
    new = NodeState(seed=saved.seed, epoch=saved.epoch, streams=STREAMS[:1], peers=())
    directory = StateDirectory(tmp_path)
    directory.load(UNIX_NOW)
    with monkeypatch.context() as patch:
        die_at(patch, step)
        try:
            directory.save(new)
        except Killed:
            pass
        else:
            assert step > 5  # there are no more steps
    directory.close()
    again = StateDirectory(tmp_path)
    found = again.load(UNIX_NOW)
    again.close()
    assert found.streams in (STREAMS, new.streams)
    assert found.seed == saved.seed
    assert again.load_warning == ""


def test_temporary_files_of_a_killed_run_are_removed_at_the_next_start(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / ".state.1.new").write_bytes(b"half")
    load_once(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"identity", "journal", "lock", "state"}


@pytest.mark.parametrize("step", range(1, 20))
def test_a_kill_at_any_step_of_the_first_start_does_not_affect_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    directory = StateDirectory(tmp_path)
    with monkeypatch.context() as patch:
        die_at(patch, step)
        try:
            directory.load(UNIX_NOW)
        except Killed:
            pass
        else:
            assert step > 12
    directory.close()
    again = StateDirectory(tmp_path)
    assert again.load(UNIX_NOW).epoch >= int(UNIX_NOW)
    assert again.load_warning == ""
    again.close()


def test_a_save_waits_for_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = filled(tmp_path)
    directory = StateDirectory(tmp_path)
    directory.load(UNIX_NOW)
    begun, may_go_on, sync = threading.Event(), threading.Event(), os.fsync

    def slow(file: int) -> None:
        begun.set()
        may_go_on.wait(10)
        sync(file)

    monkeypatch.setattr(os, "fsync", slow)
    later = NodeState(seed=saved.seed, epoch=saved.epoch, streams=(), peers=PEERS[:1])
    saves = [threading.Thread(target=directory.save, args=(each,)) for each in (saved, later)]
    saves[0].start()
    begun.wait(10)
    saves[1].start()
    may_go_on.set()
    for save in saves:
        save.join(10)
    directory.close()
    assert decode_state((tmp_path / "state").read_bytes()) == replace(later, seed=b"")


def test_a_truncated_state_costs_only_the_delivery_state(tmp_path: Path) -> None:
    saved = filled(tmp_path)
    whole = (tmp_path / "state").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "state").write_bytes(whole[:length])
        directory = StateDirectory(tmp_path)
        found = directory.load(UNIX_NOW + 60)
        directory.close()
        assert found == NodeState(seed=saved.seed, epoch=int(UNIX_NOW) + 60, is_lost=True)
        assert "state.damaged" in directory.load_warning
        assert (tmp_path / "state.damaged").read_bytes() == whole[:length]


def test_an_invalid_identity_is_renamed_and_not_shown(tmp_path: Path) -> None:
    saved = filled(tmp_path)
    (tmp_path / "identity").write_text(saved.seed.hex()[:-2])
    directory = StateDirectory(tmp_path)
    found = directory.load(UNIX_NOW)
    directory.close()
    assert found.seed != saved.seed
    assert (tmp_path / "identity.damaged").exists()
    assert saved.seed.hex()[:8] not in directory.load_warning
    assert "identity.damaged" in directory.load_warning


def test_the_seed_is_never_printed(tmp_path: Path) -> None:
    saved = filled(tmp_path)
    for shown in (repr(saved), repr(StateDirectory(tmp_path))):
        assert saved.seed.hex() not in shown
        assert repr(saved.seed) not in shown
    assert saved.seed not in (tmp_path / "state").read_bytes()


whole_numbers = st.integers(0, 2**48 - 1)
saved_streams = st.builds(
    lambda origin, epoch, gaps_below, above, idle_s: SavedStream(
        origin=PeerId(origin),
        epoch=epoch,
        high=max((last for _, last in gaps_below), default=0) + above,
        gaps=tuple(gaps_below),
        idle_s=idle_s,
    ),
    st.binary(min_size=32, max_size=32),
    whole_numbers,
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(lambda r: (min(r), max(r)))),
    st.integers(0, 2**40),
    st.floats(0, 1e9),
)


saved_entries = st.builds(
    SavedEntry,
    whole_numbers,
    st.integers(1, 2**53 - 1),
    st.binary(max_size=4096),
    st.binary(min_size=64, max_size=64),
    st.binary(max_size=512),
    st.floats(0, 1e9),
)


@given(
    st.lists(saved_streams),
    st.lists(saved_entries),
    whole_numbers,
    st.sampled_from([b"", Coordinate().encode()]),
)
def test_encoded_values_decode_to_the_same_values(
    streams: list[SavedStream], entries: list[SavedEntry], epoch: int, coordinate: bytes
) -> None:
    saved = NodeState(b"", epoch, tuple(streams), PEERS, tuple(entries), coordinate)
    assert decode_state(encode_state(saved)) == saved


def test_a_state_without_entries_is_encoded_as_before_there_were_any() -> None:
    body = msgpack.unpackb(encode_state(NodeState(b"", 1))[len(MAGIC) + CHECKSUM_BYTES :])
    assert body == [1, [], []]


def test_a_coordinate_out_of_range_makes_the_state_unreadable() -> None:
    for coordinate in (b"\xff" * 24, b"short"):
        with pytest.raises(ValueError, match="coordinate"):
            decode_state(encode_state(NodeState(b"", 1, coordinate=coordinate)))


def test_a_state_that_is_gone_may_have_had_entries_unless_the_identity_is_new(
    tmp_path: Path,
) -> None:
    assert not load_once(tmp_path, UNIX_NOW).is_lost
    assert not load_once(tmp_path, UNIX_NOW).is_lost
    (tmp_path / "state").unlink()
    assert load_once(tmp_path, UNIX_NOW).is_lost


@given(st.data())
def test_any_flipped_bit_is_detected(data: st.DataObject) -> None:
    state = encode_state(NodeState(seed=bytes(32), epoch=5, streams=STREAMS, peers=PEERS))
    bit = data.draw(st.integers(0, 8 * len(state) - 1))
    flipped = bytearray(state)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="whole"):
        decode_state(bytes(flipped))


# --- the journal -------------------------------------------------------------------------------------

NEW_STREAM = SavedStream(PeerId(b"c" * 32), epoch=3, high=5, gaps=((2, 2),), idle_s=0.25)
ENTRIES = (
    SavedEntry(1_700_000_000, 4, b"value", bytes(64), b"terms", 1.5),
    SavedEntry(1_700_000_000, 9, b"", bytes(64), b"terms", 0.0),
)


def stream_of(saved: SavedStream) -> Stream:
    return Stream(saved.origin, saved.epoch)


def opened(path: Path, entries: tuple[SavedEntry, ...] = ()) -> tuple[StateDirectory, NodeState]:
    """The directory of a running node, with its state just saved."""
    directory = StateDirectory(path)
    first = directory.load(UNIX_NOW)
    saved = NodeState(first.seed, first.epoch, STREAMS, PEERS, entries)
    directory.save(saved)
    return directory, saved


def changes(saved: NodeState, elapsed_s: float, *streams: SavedStream, **more: Any) -> StateChanges:
    state = replace(saved, streams=streams, entries=more.pop("entries", ()))
    return StateChanges(state, elapsed_s, **more)


def test_what_is_appended_is_loaded_with_the_state(tmp_path: Path) -> None:
    directory, saved = opened(tmp_path, ENTRIES[:1])
    heard = replace(STREAMS[0], high=12, idle_s=0.5)
    directory.append(changes(saved, 10.0, heard, NEW_STREAM, entries=ENTRIES[1:]))
    directory.append(
        changes(
            replace(saved, peers=PEERS[:1]),
            30.0,
            removed_streams=(stream_of(NEW_STREAM),),
            removed_entries=((ENTRIES[0].epoch, ENTRIES[0].sequence),),
        )
    )
    directory.close()
    found = load_once(tmp_path)
    assert found.streams == (
        replace(heard, idle_s=20.5),  # as of the last save
        replace(STREAMS[1], idle_s=42.5),
    )
    assert found.entries == (ENTRIES[1]._replace(age_s=20.0),)
    assert found.peers == PEERS[:1]
    assert not found.is_lost
    assert load_once(tmp_path, UNIX_NOW + 9).streams == found.streams


def test_an_epoch_that_a_change_raised_is_not_used_again(tmp_path: Path) -> None:
    directory, saved = opened(tmp_path)
    directory.append(changes(replace(saved, epoch=saved.epoch + 100), 1.0))
    directory.close()
    assert load_once(tmp_path).epoch == saved.epoch + 101


def test_a_change_costs_its_own_size(tmp_path: Path) -> None:
    directory, saved = opened(tmp_path)
    many = tuple(replace(NEW_STREAM, epoch=each) for each in range(20_000))
    directory.save(replace(saved, streams=many))
    before = (tmp_path / "state").stat()
    directory.append(changes(saved, 1.0, NEW_STREAM))
    directory.append(changes(saved, 2.0, NEW_STREAM))
    assert (tmp_path / "state").stat() == before
    assert (tmp_path / "journal").stat().st_size < 600
    directory.close()


def test_a_journal_as_long_as_its_state_is_replaced_by_a_state(tmp_path: Path) -> None:
    directory, saved = opened(tmp_path)
    appended = 0
    while not directory.is_save_due:
        streams = [replace(NEW_STREAM, epoch=each) for each in range(1000)]
        directory.append(changes(saved, 1.0, *streams))
        appended += 1
    length = (tmp_path / "journal").stat().st_size
    assert MIN_JOURNAL_BYTES <= length < MIN_JOURNAL_BYTES + 2 * length // appended
    directory.save(saved)
    directory.append(changes(saved, 1.0, NEW_STREAM))
    assert (tmp_path / "journal").stat().st_size < 1000
    directory.close()
    assert {each.origin for each in load_once(tmp_path).streams} == {
        *(each.origin for each in STREAMS),
        NEW_STREAM.origin,
    }


@pytest.mark.parametrize("step", range(1, 12))
@pytest.mark.parametrize("is_first", [True, False])
def test_a_kill_at_any_step_of_an_append_leaves_the_state_before_it_or_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, is_first: bool
) -> None:
    directory, saved = opened(tmp_path)
    if not is_first:
        directory.append(changes(saved, 0.0))
    with monkeypatch.context() as patch:
        die_at(patch, step)
        try:
            directory.append(changes(saved, 0.0, NEW_STREAM))
        except Killed:
            pass
        else:
            assert step > 2
    directory.close()
    again = StateDirectory(tmp_path)
    found = again.load(UNIX_NOW)
    again.close()
    assert set(found.streams) in ({*STREAMS}, {*STREAMS, NEW_STREAM})
    assert (again.load_warning, found.is_lost) == ("", False)


@pytest.mark.parametrize("step", range(1, 12))
def test_a_kill_while_a_state_replaces_its_journal_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    directory, saved = opened(tmp_path)
    directory.append(changes(saved, 0.0, NEW_STREAM))
    whole = replace(saved, streams=(*STREAMS, NEW_STREAM))
    with monkeypatch.context() as patch:
        die_at(patch, step)
        try:
            directory.save(whole)
            directory.append(changes(saved, 0.0))
        except Killed:
            pass
        else:
            assert step > 7
    directory.close()
    assert set(load_once(tmp_path).streams) == {*STREAMS, NEW_STREAM}


def test_a_journal_that_ends_anywhere_holds_the_changes_before_that(tmp_path: Path) -> None:
    directory, saved = opened(tmp_path)
    for second in range(1, 4):
        directory.append(changes(saved, 0.0, replace(NEW_STREAM, high=10 * second)))
    directory.close()
    state, whole = ((tmp_path / name).read_bytes() for name in ("state", "journal"))
    highs = []
    for length in range(len(whole) + 1):
        (tmp_path / "state").write_bytes(state)
        (tmp_path / "journal").write_bytes(whole[:length])
        again = StateDirectory(tmp_path)
        found = {stream_of(each): each.high for each in again.load(UNIX_NOW).streams}
        again.close()
        assert again.load_warning == ""
        assert len(found) == 2 + (stream_of(NEW_STREAM) in found)
        highs.append(found.get(stream_of(NEW_STREAM), 0))
    assert highs == sorted(highs)
    assert set(highs) == {0, 10, 20, 30}


@given(st.data())
def test_a_flipped_bit_in_a_journal_is_detected(data: st.DataObject) -> None:
    saved = NodeState(b"", 7, STREAMS, PEERS)
    previous = bytes(CHECKSUM_BYTES)
    journal = JOURNAL_MAGIC + previous
    for second in range(1, 4):
        record, previous = encode_changes(changes(saved, float(second), NEW_STREAM), previous)
        journal += record
    whole, is_damaged = decode_changes(journal, bytes(CHECKSUM_BYTES))
    assert (len(whole), is_damaged) == (3, False)
    bit = data.draw(st.integers(0, 8 * len(journal) - 1))
    flipped = bytearray(journal)
    flipped[bit // 8] ^= 1 << bit % 8
    found, _ = decode_changes(bytes(flipped), bytes(CHECKSUM_BYTES))
    assert len(found) < 3
    assert found == whole[: len(found)]


def test_a_damaged_journal_costs_the_changes_after_the_damage_and_is_reported(
    tmp_path: Path,
) -> None:
    directory, saved = opened(tmp_path)
    for second in range(1, 4):
        directory.append(changes(saved, 0.0, replace(NEW_STREAM, high=10 * second)))
    directory.close()
    damaged = bytearray((tmp_path / "journal").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "journal").write_bytes(damaged)
    again = StateDirectory(tmp_path)
    found = again.load(UNIX_NOW)
    again.close()
    assert "journal.damaged" in again.load_warning
    assert (tmp_path / "journal.damaged").read_bytes() == damaged
    assert found.is_lost
    assert {stream_of(each): each.high for each in found.streams}[stream_of(NEW_STREAM)] == 10


def test_the_journal_of_another_state_is_ignored(tmp_path: Path) -> None:
    directory, saved = opened(tmp_path)
    directory.append(changes(saved, 0.0, NEW_STREAM))
    journal = (tmp_path / "journal").read_bytes()
    directory.save(replace(saved, streams=STREAMS[:1]))
    directory.close()
    (tmp_path / "journal").write_bytes(journal)
    assert load_once(tmp_path).streams == STREAMS[:1]


def test_a_state_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    saved = filled(tmp_path)
    (tmp_path / "journal").unlink()
    again = StateDirectory(tmp_path)
    found = again.load(UNIX_NOW)
    again.close()
    assert (found.streams, found.peers, found.seed) == (STREAMS, PEERS, saved.seed)
    assert again.load_warning == ""


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_after_a_failed_append_the_whole_state_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    directory, saved = opened(tmp_path)
    directory.append(changes(saved, 0.0, replace(NEW_STREAM, epoch=1)))
    if call == "open":
        directory.save(saved)  # the next append opens the journal
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _raise(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            directory.append(changes(saved, 0.0, NEW_STREAM))
    assert directory.is_save_due
    with pytest.raises(OSError, match="as a whole"):
        directory.append(changes(saved, 0.0, NEW_STREAM))
    directory.save(replace(saved, streams=(NEW_STREAM,)))
    directory.append(changes(saved, 0.0))
    directory.close()
    assert load_once(tmp_path).streams == (NEW_STREAM,)


def _raise(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call
