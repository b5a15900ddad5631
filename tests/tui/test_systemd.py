"""The node notifies systemd of its state and loads keys from its credentials."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import KeyFileError
from grapevine_tui import systemd
from grapevine_tui.config.settings import load_settings
from tests.tui.runs import WAIT_S, Bench


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "n"))
        sock.settimeout(WAIT_S)
        yield sock


def test_systemd_is_notified_of_ready_watchdog_reloading_and_stopping(
    bench: Bench, tmp_path: Path, manager: socket.socket
) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "200000"}
    run, address = bench.started(environ=environ)
    assert manager.recv(4096).decode() == f"READY=1\nSTATUS=listening on {address}"
    assert [manager.recv(4096) for _ in range(2)] == [b"WATCHDOG=1"] * 2
    run.process.send_signal(signal.SIGHUP)
    notifications = [manager.recv(4096) for _ in range(6)]
    (reloading,) = [
        each for each in notifications if each.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    ]
    assert b"READY=1" in notifications[notifications.index(reloading) :]
    assert run.end() == 0
    while manager.recv(4096) != b"STOPPING=1":
        pass


def test_systemd_is_notified_why_a_reload_failed_and_that_a_later_one_succeeded(
    bench: Bench, tmp_path: Path, manager: socket.socket
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("fanout = 3\n")
    run, address = bench.started("-c", str(config), environ={"NOTIFY_SOCKET": str(tmp_path / "n")})
    assert manager.recv(4096).startswith(b"READY=1")
    for text, status in (
        ("fanot = 3\n", "not reloaded: fanot: unknown setting"),
        ("fanout = 4\n", f"listening on {address}\nERRNO=0"),
    ):
        config.write_text(text)
        run.process.send_signal(signal.SIGHUP)
        assert manager.recv(4096).startswith(b"RELOADING=1")
        notifications = manager.recv(4096).decode()
        assert notifications.startswith(f"STATUS={status}")
        assert f"listening on {address}\nERRNO=" in notifications
        assert manager.recv(4096) == b"READY=1"
    assert run.end() == 0


def test_ready_waits_for_the_peers_that_were_asked_for(
    bench: Bench, tmp_path: Path, manager: socket.socket
) -> None:
    run, address = bench.started(
        "--wait-peers", "1", environ={"NOTIFY_SOCKET": str(tmp_path / "n")}
    )
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
    manager.settimeout(WAIT_S)
    bench.started("--peer", address)
    run.expect("ready")
    assert manager.recv(4096).startswith(b"READY=1")


def test_without_a_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("", "/nobody/here", "elsewhere", "@nobody"):
        monkeypatch.setenv("NOTIFY_SOCKET", where)
        systemd.notify("READY=1")
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    assert systemd.watchdog_timeout_s() == 20.0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert systemd.watchdog_timeout_s() == 0.0


def test_keys_come_from_the_credentials_directory_unless_others_are_named(tmp_path: Path) -> None:
    keys = [ClusterKey.generate() for _ in range(2)]
    keys[0].save(tmp_path / "cluster.key")
    keys[1].save(tmp_path / "cluster.key.2")
    (tmp_path / "cluster.key").chmod(0o440)  # an access list shows like this
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    settings = load_settings({}, environ, directory=tmp_path)
    assert settings.with_keys().node.keys == tuple(keys)
    assert "# $CREDENTIALS_DIRECTORY" in "\n".join(settings.format_lines())
    named = load_settings(
        {"key_files": (str(tmp_path / "cluster.key.2"),)}, environ, directory=tmp_path
    )
    assert named.with_keys().node.keys == (keys[1],)
    (tmp_path / "cluster.key").chmod(0o444)
    with pytest.raises(KeyFileError):
        load_settings({}, environ, directory=tmp_path).with_keys()
