"""Cluster keys: files are private and never overwritten, and the secret is never shown."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import KeyFileError

SECRET = "c0ffee" + "11" * 29


def key_file(directory: Path, text: str = SECRET + "\n", mode: int = 0o600) -> Path:
    path = directory / "cluster.key"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_a_saved_key_can_be_loaded_and_its_file_is_private(tmp_path: Path) -> None:
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
def test_a_key_readable_by_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    with pytest.raises(KeyFileError, match="chmod 600"):
        ClusterKey.load(key_file(tmp_path, mode=mode))


def test_a_symlink_to_a_key_readable_by_others_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(key_file(tmp_path, mode=0o644))
    with pytest.raises(KeyFileError, match="chmod 600"):
        ClusterKey.load(link)


@pytest.mark.parametrize("text", ["", SECRET[:-2], SECRET + "00", "g" * 64, "é" * 64])
def test_an_invalid_key_file_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        ClusterKey.load(key_file(tmp_path, text))
    assert "c0ffee" not in str(caught.value)


def test_a_missing_key_file_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"none\.key: no such file"):
        ClusterKey.load(tmp_path / "none.key")


def test_a_secret_is_never_printed_or_pickled(tmp_path: Path) -> None:
    key = ClusterKey.load(key_file(tmp_path))
    for shown in (repr(key), str(key), f"{key}", repr([key])):
        assert "c0ffee" not in shown
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(key)


def test_generated_keys_differ_and_derive_by_domain() -> None:
    one, two = ClusterKey.generate(), ClusterKey.generate()
    assert one != two
    assert len({one, two, one}) == 2
    assert one.derive(b"a") != one.derive(b"b")
    assert one.derive(b"a") != two.derive(b"a")


def _load_simultaneously(path: str, start: Any, fingerprints: Any) -> None:
    start.wait()
    try:
        fingerprints.put(ClusterKey.load_or_generate(path).fingerprint)
    except Exception as error:  # noqa: BLE001  the test shows it and need not wait
        fingerprints.put(repr(error))


@pytest.mark.parametrize("content", [None, b"", b"\0" * 65])
def test_processes_that_start_simultaneously_share_one_key(
    tmp_path: Path, content: bytes | None
) -> None:
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "keys" / "cluster.key"
    if content is not None:  # as after a full disk or a power failure
        path.parent.mkdir(mode=0o700)
        path.write_bytes(content)
        path.chmod(0o600)
    start, fingerprints = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=_load_simultaneously, args=(str(path), start, fingerprints))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    found = {fingerprints.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert found == {ClusterKey.load(path).fingerprint}
    expected_files = {"cluster.key"} | ({"cluster.key.damaged"} if content is not None else set())
    assert {each.name for each in path.parent.iterdir()} == expected_files


def test_an_existing_key_is_loaded_and_a_damaged_one_is_not_replaced(tmp_path: Path) -> None:
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


def test_an_empty_key_file_is_reported_as_empty(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="the file is empty"):
        ClusterKey.load(key_file(tmp_path, ""))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can")
def test_a_key_owned_by_another_user_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    os.chown(path, 65534, 65534)
    with pytest.raises(KeyFileError, match="belongs to"):
        ClusterKey.load(path)


def test_a_key_from_the_environment_is_taken_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPEVINE_KEY", f" {SECRET}\n")
    assert ClusterKey.from_env() == ClusterKey(bytes.fromhex(SECRET))
    environment = [sys.executable, "-c", "import os; print('GRAPEVINE_KEY' in os.environ)"]
    assert subprocess.check_output(environment) == b"False\n"
    with pytest.raises(KeyFileError, match="GRAPEVINE_KEY: not set"):
        ClusterKey.from_env()


@pytest.mark.parametrize("text", ["", SECRET[:-2], SECRET + "00", "c0ffee" + "g" * 58])
def test_an_invalid_key_in_the_environment_is_deleted_too_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("CLUSTER_SECRET", text)
    with pytest.raises(KeyFileError, match="CLUSTER_SECRET: expected 64 hex digits") as caught:
        ClusterKey.from_env("CLUSTER_SECRET")
    assert "c0ffee" not in str(caught.value)
    assert "CLUSTER_SECRET" not in os.environ


@pytest.mark.parametrize("bit", [0o001, 0o002, 0o004, 0o010, 0o020, 0o040])
def test_any_access_of_others_to_a_key_is_refused(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "cluster.key"
    ClusterKey.generate().save(path)
    path.chmod(0o600 | bit)
    with pytest.raises(KeyFileError):
        ClusterKey.load(path)


def test_a_derived_key_has_32_bytes_unless_another_size_is_asked_for() -> None:
    key = ClusterKey.generate()
    assert len(key.derive(b"a")) == 32
    assert len(key.derive(b"a", size=16)) == 16


def test_a_key_file_has_at_most_4096_bytes(tmp_path: Path) -> None:
    padding = " " * (4096 - len(SECRET))
    assert ClusterKey.load(key_file(tmp_path, SECRET + padding)) == ClusterKey(
        bytes.fromhex(SECRET)
    )
    with pytest.raises(KeyFileError, match="larger than 4,096 bytes"):
        ClusterKey.load(key_file(tmp_path, SECRET + padding + " "))


def test_a_private_key_file_is_read_from_a_directory_that_others_can_write_to(
    tmp_path: Path,
) -> None:
    path = key_file(tmp_path)
    tmp_path.chmod(0o777)
    assert ClusterKey.load(path) == ClusterKey(bytes.fromhex(SECRET))


def test_a_fingerprint_is_eight_digits_that_follow_from_the_secret() -> None:
    key = ClusterKey(bytes(range(32)))
    assert key.fingerprint == "25752c45"
    assert repr(key) == "ClusterKey(25752c45…)"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"expected 32 bytes, got {size}"):
        ClusterKey(bytes(size))
