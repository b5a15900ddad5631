"""Keys do what they are for, and their secrets stay with them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.crypto.identity import LARGE_PART_BYTES, ClusterKey, Identity, digest, verify
from grapevine_proto.errors import KeyFileError

SEED = bytes(range(32))
SECRET = "c0ffee" + "11" * 29


def key_file(folder: Path, text: str = SECRET + "\n", mode: int = 0o600) -> Path:
    path = folder / "cluster.key"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_signature_holds_for_exactly_what_was_signed() -> None:
    identity = Identity(SEED)
    signature = identity.sign(b"rumor", b"one", 2)
    assert verify(identity.peer_id, signature, b"rumor", b"one", 2)
    assert not verify(identity.peer_id, signature, b"record", b"one", 2)
    assert not verify(identity.peer_id, signature, b"rumor", b"one", 3)
    assert not verify(Identity(bytes(32)).peer_id, signature, b"rumor", b"one", 2)


@given(st.binary(max_size=130))
def test_no_bytes_make_verify_raise(signature: bytes) -> None:
    assert not verify(Identity(SEED).peer_id, signature, b"rumor", b"")


def test_the_same_seed_is_the_same_identity() -> None:
    assert Identity(SEED).peer_id == Identity(SEED).peer_id
    assert Identity(SEED).seed == SEED


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_two_lists_of_parts_never_hash_alike(ours: list[bytes], theirs: list[bytes]) -> None:
    assert (digest(b"d", *ours) == digest(b"d", *theirs)) is (ours == theirs)


def test_a_large_part_is_hashed_like_a_small_one() -> None:
    """By the definition, put together in one piece."""
    for size in (LARGE_PART_BYTES, LARGE_PART_BYTES + 1, 3 * LARGE_PART_BYTES):
        parts = b"small", bytes(range(256)) * (size // 256) + bytes(size % 256), b"after"
        whole = b"".join(len(each).to_bytes(8, "big") + each for each in (b"d", *parts))
        assert digest(b"d", *parts) == blake2b(whole, digest_size=32).digest()


def test_a_key_comes_back_from_its_file_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    key = ClusterKey.generate()
    path = tmp_path / "cluster.key"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert ClusterKey.load(path) == key
    assert ClusterKey.load(path).fingerprint == key.fingerprint


def test_saving_never_overwrites(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="exists"):
        ClusterKey.generate().save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    with pytest.raises(KeyFileError, match="chmod 600"):
        ClusterKey.load(key_file(tmp_path, mode=mode))


def test_a_link_to_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(key_file(tmp_path, mode=0o644))
    with pytest.raises(KeyFileError, match="chmod 600"):
        ClusterKey.load(link)


@pytest.mark.parametrize("text", ["", SECRET[:-2], SECRET + "00", "g" * 64, "é" * 64])
def test_a_file_that_holds_no_key_is_refused_without_a_word_of_it(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(KeyFileError) as caught:
        ClusterKey.load(key_file(tmp_path, text))
    assert "c0ffee" not in str(caught.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"none\.key: there is no such file"):
        ClusterKey.load(tmp_path / "none.key")


def test_a_secret_never_prints_and_is_never_pickled(tmp_path: Path) -> None:
    key, identity = ClusterKey.load(key_file(tmp_path)), Identity(SEED)
    for shown in (repr(key), str(key), f"{key}", repr([key]), repr(identity), str(identity)):
        assert "c0ffee" not in shown
        assert SEED.hex()[:16] not in shown
    for secret in (key, identity):
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(secret)


def test_keys_are_told_apart() -> None:
    one, other = ClusterKey.generate(), ClusterKey.generate()
    assert one != other
    assert len({one, other, one}) == 2
    assert one.derive(b"a") != one.derive(b"b")
    assert one.derive(b"a") != other.derive(b"a")


def _load_at_once(path: str, start: Any, told: Any) -> None:
    start.wait()
    told.put(ClusterKey.load_or_generate(path).fingerprint)


@pytest.mark.parametrize("content", [None, b"", b"\0" * 65])
def test_processes_that_start_at_once_all_get_one_key(
    tmp_path: Path, content: bytes | None
) -> None:
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "keys" / "cluster.key"
    if content is not None:  # a full disk or a power failure left it
        path.parent.mkdir(mode=0o700)
        path.write_bytes(content)
        path.chmod(0o600)
    start, told = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=_load_at_once, args=(str(path), start, told)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    found = {told.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert found == {ClusterKey.load(path).fingerprint}
    left = {"cluster.key"} | ({"cluster.key.damaged"} if content is not None else set())
    assert {each.name for each in path.parent.iterdir()} == left


def test_a_key_that_is_there_is_loaded_and_a_damaged_one_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    key = ClusterKey.load_or_generate(path)
    assert ClusterKey.load_or_generate(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("c0ffee\n")
    with pytest.raises(KeyFileError, match="64 hex digits"):
        ClusterKey.load_or_generate(path)
    assert path.read_text() == "c0ffee\n"
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        ClusterKey.load_or_generate(path)


def test_an_empty_key_file_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="the file is empty"):
        ClusterKey.load(key_file(tmp_path, ""))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can")
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    os.chown(path, 65534, 65534)
    with pytest.raises(KeyFileError, match="belongs to"):
        ClusterKey.load(path)
