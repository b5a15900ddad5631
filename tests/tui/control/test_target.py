"""Targets: the words of ssh, and names that it would take for something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from grapevine_proto.errors import ConfigError
from grapevine_tui.control.client import send_command
from grapevine_tui.control.target import SSH, LocalTarget, NodeUnreachable, SshTarget, as_target
from tests.tui.fake_ssh import install_fake_ssh


def test_a_state_directory_is_a_target(tmp_path: Path) -> None:
    assert as_target(tmp_path) == LocalTarget(tmp_path)
    assert str(as_target(tmp_path)) == str(tmp_path / "control.sock")
    assert as_target(SshTarget("web-1")) == SshTarget("web-1")


@pytest.mark.parametrize("host", ["-oProxyCommand=touch /tmp/x", "", "-", "web\n1", "web\x1b[2J"])
def test_a_host_that_ssh_would_take_for_an_option_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="expected a host name"):
        SshTarget(host)


def test_the_words_for_the_other_host_are_quoted() -> None:
    target = SshTarget("ops@web-1", "/srv/a b; reboot", "/opt/grapevine/bin/grapevine-tui")
    assert target.argv() == [
        *SSH,
        "ops@web-1",
        "/opt/grapevine/bin/grapevine-tui ctl --state-dir '/srv/a b; reboot' stream",
    ]
    assert SSH[-1] == "--"  # what follows is no option
    assert SshTarget("web-1").argv()[-1] == "grapevine-tui ctl stream"


def test_what_ssh_says_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", install_fake_ssh(tmp_path / "bin")["PATH"])
    with pytest.raises(NodeUnreachable, match=r"^ssh down: ssh: Could not resolve hostname down$"):
        send_command(SshTarget("down"), {"cmd": "status"})
    with pytest.raises(NodeUnreachable, match=r"ssh web-1: no node answers at .*nothing"):
        send_command(SshTarget("web-1", str(tmp_path / "nothing")), {"cmd": "status"})


def test_a_machine_without_ssh_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NodeUnreachable, match=r"^ssh web-1: cannot run ssh: No such file"):
        send_command(SshTarget("web-1"), {"cmd": "status"})
    assert len(os.listdir("/proc/self/fd")) == descriptors
