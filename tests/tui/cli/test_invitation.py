"""A second machine gets into the cluster by one line, and nothing it had before is lost."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError, KeyFileError
from grapevine_tui.cli.invitation import (
    PREFIX,
    InvalidInvitation,
    Invitation,
    accept_invitation,
    edit_keeping_comments,
)
from grapevine_tui.config.settings import load_settings
from grapevine_tui.config.template import render
from tests.tui.runs import WAIT_S, Bench, environ_of

SECRET = bytes(range(32))
AFAR = Invitation(SECRET, "office", ("192.0.2.10:8000",))


def test_a_second_user_joins_by_the_line_alone(bench: Bench, tmp_path: Path) -> None:
    assert bench.command("keygen").returncode == 0
    run, address = bench.started("--cluster", "office", "--state-dir", "kept")
    invited = bench.command("--state-dir", "kept", "invite")
    assert invited.returncode == 0
    assert invited.stdout.startswith(PREFIX)
    assert invited.stdout.count("\n") == 1
    assert "keep it secret" in invited.stderr
    assert address in invited.stderr
    secret = (tmp_path / "config" / "grapevine" / "cluster.key").read_text().strip()
    assert secret not in invited.stdout + invited.stderr
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other")
    try:
        joined = other.command("join", stdin=invited.stdout)
        assert (joined.returncode, joined.stderr) == (0, "")
        key_file = tmp_path / "other" / "config" / "grapevine" / "cluster.key"
        assert key_file.read_text().strip() == secret
        assert key_file.stat().st_mode & 0o777 == 0o600
        assert secret not in joined.stdout
        second, _ = other.started("--wait-peers", "1")
        assert second.expect("ready")["peers"] == 1
        assert second.seen[0]["cluster"] == "office"
        again = other.command("join", stdin=invited.stdout)
        assert ": nothing new" in again.stdout
    finally:
        other.close()
    assert run.end() == 0


def test_without_a_running_node_the_settings_provide_the_address(bench: Bench) -> None:
    assert bench.command("keygen").returncode == 0
    invited = bench.command("--advertise", "192.0.2.10:8000", "--cluster", "blue", "invite")
    assert Invitation.from_line(invited.stdout).addresses == ("192.0.2.10:8000",)
    assert Invitation.from_line(invited.stdout).cluster == "blue"
    assert "no node is running" in invited.stderr


def test_the_key_of_another_cluster_is_not_given_away(bench: Bench) -> None:
    bench.command("keygen", "office.key")
    bench.command("keygen")
    bench.started("-k", "office.key", "--state-dir", "kept")
    wrong = bench.command("--state-dir", "kept", "invite")
    assert (wrong.returncode, wrong.stdout) == (3, "")
    assert "--key-file" in wrong.stderr
    with_key = bench.command("-k", "office.key", "invite", "--state-dir", "kept")
    assert (with_key.returncode, with_key.stderr.count("no node is running")) == (0, 0), (
        with_key.stderr
    )


def read_until(terminal: int, expected: bytes | None) -> bytes:
    """What the program shows until `expected` or, with None, until it ends."""
    shown = b""
    give_up_at = time.monotonic() + WAIT_S
    while expected is None or expected not in shown:
        readable, _, _ = select.select([terminal], [], [], max(0.0, give_up_at - time.monotonic()))
        assert readable, f"no {expected!r} in {shown!r}"
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the end of the program, on Linux
            break
    return shown


def test_on_a_terminal_the_line_is_not_shown(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "grapevine_tui", "join"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environ_of(tmp_path),
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(follower)
    shown = read_until(leader, b"Invitation")
    os.write(leader, AFAR.to_line().encode() + b"\n")
    shown += read_until(leader, None)
    assert process.wait(timeout=WAIT_S) == 0
    os.close(leader)
    assert AFAR.to_line().encode() not in shown
    assert b"start the node" in shown
    assert (tmp_path / "config" / "grapevine" / "cluster.key").exists()


def test_an_invitation_reads_as_it_was_written() -> None:
    assert Invitation.from_line(AFAR.to_line() + "\n") == AFAR
    line = AFAR.to_line()
    assert Invitation.from_line(f"  {line[:40]}\n {line[40:]}\r\n") == AFAR
    assert SECRET.hex() not in line
    assert "0001" not in repr(AFAR)


@given(st.data())
def test_a_damaged_line_is_reported_and_never_used(data: st.DataObject) -> None:
    line = AFAR.to_line()
    at = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.sampled_from("abcXYZ019-_:"))
    for damaged in (line[:at], line[:at] + other + line[at + 1 :]):
        if damaged == line:
            continue
        with pytest.raises(InvalidInvitation) as caught:
            Invitation.from_line(damaged)
        assert "\n" not in str(caught.value)


def test_a_damaged_line_is_one_line_and_exit_1_and_writes_nothing(bench: Bench) -> None:
    done = bench.command("join", stdin=AFAR.to_line()[:-3] + "\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "damaged" in done.stderr
    assert not (bench.directory / "config").exists()


def test_another_key_is_left_alone_and_the_new_one_lies_beside_it(tmp_path: Path) -> None:
    ClusterKey.generate().save(tmp_path / "cluster.key")
    before = (tmp_path / "cluster.key").read_text()
    path = tmp_path / "config.toml"
    joined = accept_invitation(AFAR, path, is_user_config=True)
    assert (tmp_path / "cluster.key").read_text() == before
    assert joined.key_file.name == f"cluster-{AFAR.key.fingerprint}.key"
    settings = load_settings({"app.config": str(path)}, {}).with_keys()
    assert settings.node.keys == (AFAR.key,)
    assert settings.node.bootstrap_peers == ("192.0.2.10:8000",)
    assert settings.node.cluster == "office"
    assert settings.node.bind == "0.0.0.0:8000"
    joined.key_file.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        accept_invitation(AFAR, path, is_user_config=True)


def test_a_file_with_reasons_keeps_them_and_comes_to_what_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "gv.toml"
    path.write_text(render("lan"))
    joined = accept_invitation(AFAR, path, is_user_config=False)
    assert set(joined.changed) == {"bootstrap_peers", "cluster", "key_files"}
    after = path.read_text()
    assert after.count("#") >= render("lan").count("#")
    settings = load_settings({"app.config": str(path)}, {}).with_keys()
    assert (settings.node.cluster, settings.node.keys) == ("office", (AFAR.key,))


def test_a_node_of_another_cluster_is_not_turned_round(tmp_path: Path) -> None:
    path = tmp_path / "gv.toml"
    path.write_text('cluster = "home"\n')
    with pytest.raises(ConfigError, match="home"):
        accept_invitation(AFAR, path, is_user_config=False)
    assert path.read_text() == 'cluster = "home"\n'
    assert not (tmp_path / "cluster.key").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        'bootstrap_peers = [\n  "a:1", # one\n  "b:2",\n]\nfanout = 3\n\n[app]\nmessages = 5\n',
        "[epidemic]\nhops = 3\n",
        "# nothing\n\nfanout = 3",
    ],
)
def test_a_settings_file_is_edited_where_it_must_be(text: str) -> None:
    changes = {"bootstrap_peers": ["c:3"], "cluster": "x"}
    edited = edit_keeping_comments(text, changes)
    assert edited is not None
    assert tomllib.loads(edited) == tomllib.loads(text) | changes


def test_a_name_in_quotes_is_edited_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "gv.toml"
    path.write_text('"bootstrap_peers" = ["a:1"]  # ours\n')
    accept_invitation(AFAR, path, is_user_config=False)
    assert "# ours" in path.read_text()
    assert load_settings({"app.config": str(path)}, {}).node.bootstrap_peers == (
        "a:1",
        *AFAR.addresses,
    )


def test_a_file_that_cannot_be_edited_safely_is_unchanged_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grapevine_tui.config.toml_edit._set_value", lambda text, *_: text)
    path = tmp_path / "gv.toml"
    text = 'bootstrap_peers = ["a:1"]  # ours\n'
    path.write_text(text)
    with pytest.raises(ConfigError, match="add to it: bootstrap_peers"):
        accept_invitation(AFAR, path, is_user_config=False)
    assert path.read_text() == text
    assert not (tmp_path / "cluster.key").exists()
