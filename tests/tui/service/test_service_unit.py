"""The unit we ship: what it never tries again, how closed its sandbox is, how keys change in it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError, KeyFileError, StateLockedError
from grapevine_tui.config.settings import load_settings
from grapevine_tui.process_exit import EXIT_CODE_BY_ERROR
from tests.sources import ROOT
from tests.tui.runs import Bench

UNIT = ROOT / "config" / "grapevine.service"
EXPOSURE = 3.0  # of 10, as systemd reckons


def values_of(name: str) -> list[str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def test_only_what_needs_a_hand_is_not_tried_again() -> None:
    codes = dict(EXIT_CODE_BY_ERROR)
    never = {int(code) for value in values_of("RestartPreventExitStatus") for code in value.split()}
    assert never == {codes[each] for each in (ConfigError, KeyFileError, StateLockedError)}
    assert values_of("Restart") == ["on-failure"]
    assert values_of("StartLimitIntervalSec") == ["0"]  # it never gives up for good


def test_an_address_that_is_not_there_yet_is_tried_again(bench: Bench) -> None:
    run = bench.run("--host", "203.0.113.9")
    assert str(run.end(None)) not in values_of("RestartPreventExitStatus")[0].split()


def test_keys_are_handed_over_in_the_order_of_their_names_in_each_round_of_a_rotation(
    tmp_path: Path,
) -> None:
    (credential,) = values_of("LoadCredential")
    name, _, keys = credential.partition(":")
    assert keys == "/etc/grapevine/keys"
    old, new = ClusterKey.generate(), ClusterKey.generate()
    rounds = (
        ({"1.key": old}, [old]),
        ({"1.key": old, "2.key": new}, [old, new]),
        ({"1.key": old, "0.key": new}, [new, old]),
        ({"0.key": new}, [new]),
    )
    for number, (files, expected) in enumerate(rounds):
        directory = tmp_path / str(number)
        directory.mkdir()
        for file, key in files.items():
            key.save(directory / f"{name}_{file}")  # systemd.exec(5), of a directory
            (directory / f"{name}_{file}").chmod(0o440)  # an access list shows like this
        settings = load_settings({}, {"CREDENTIALS_DIRECTORY": str(directory)}, directory=tmp_path)
        assert settings.with_keys().node.keys == tuple(expected)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_sandbox_is_as_closed_as_systemd_can_reckon() -> None:
    threshold = f"--threshold={int(EXPOSURE * 10)}"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", threshold, str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "nknown" in done.stderr or "unrecognized" in done.stderr:
        pytest.skip("this systemd cannot look at a file")
    assert done.returncode == 0, done.stdout[-300:] + done.stderr
