"""The command line says what it wants in one line, and ends with the code that belongs to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from grapevine_proto import compiled
from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import (
    BindError,
    ConfigError,
    KeyFileError,
    NotRunning,
    StateLockedError,
)
from grapevine_tui import __version__
from grapevine_tui.cli import main
from grapevine_tui.config.options import OPTIONS, PROFILES
from grapevine_tui.config.template import render
from grapevine_tui.config.user_files import ensure_user_key
from tests.tui.runs import Bench


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


@pytest.fixture
def here(tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs the program in a directory and as a user of the test."""
    for option in OPTIONS:
        monkeypatch.delenv(option.env or "RUST_LOG", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    code = main.run(list(arguments))
    out, err = capsys.readouterr()
    return Ended(code, out, err)


def in_process_of_its_own(
    environ: dict[str, str], *arguments: str, stdin: str = "", python: tuple[str, ...] = ()
) -> Ended:
    """Runs the program; `python`: options of the interpreter."""
    done = subprocess.run(
        [sys.executable, *python, "-m", "grapevine_tui", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environ,
        cwd=environ["HOME"],
        timeout=30,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def assert_one_line(ended: Ended) -> None:
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("grapevine-tui: ")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("module", ["grapevine_tui.cli.main", "grapevine_tui.service.headless"])
def test_neither_the_command_line_nor_a_headless_node_imports_the_screen(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        "print([n for n in sys.modules if n.partition('.')[0] in ('textual', 'rich', 'prometheus_client')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# Packages and modules of features that a node has only if it is asked for them.
UNASKED_PACKAGES = {
    "aiohttp", "async_upnp_client", "dns", "dotenv", "prometheus_client", "re2", "rich", "textual",
    "textual_serve", "tomlkit", "zeroconf",
}  # fmt: skip
UNASKED_MODULES = {
    "grapevine_proto.sim", "grapevine_tui.app.app", "grapevine_tui.cli.ctl", "grapevine_tui.demo",
    "grapevine_tui.history.pages", "grapevine_tui.history.search", "grapevine_tui.history.terms",
    "grapevine_tui.history.transfer", "grapevine_tui.host.network_views", "grapevine_tui.host.query",
    "grapevine_tui.host.report", "grapevine_tui.remote", "grapevine_tui.service.hooks",
    "grapevine_tui.service.metrics", "grapevine_tui.service.web",
}  # fmt: skip


def test_a_headless_node_imports_no_feature_that_it_is_not_asked_for(
    environ: dict[str, str],
) -> None:
    options = ("--headless", "--on-eof", "exit", "--port", "0")
    ended = in_process_of_its_own(environ, *options, python=("-X", "importtime"))
    assert ended.code == 0
    assert ended.out.startswith('{"event":"started"')
    lines = [each for each in ended.err.splitlines() if each.startswith("import time:")]
    imported = {each.rpartition("|")[2].strip() for each in lines}
    assert "grapevine_tui.service.headless" in imported
    assert imported & UNASKED_MODULES == set()
    assert {each.partition(".")[0] for each in imported} & UNASKED_PACKAGES == set()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("group", ["ctl", "config"])
def test_a_group_without_a_command_shows_its_help_line_by_line(
    capsys: pytest.CaptureFixture[str], group: str
) -> None:
    ended = run(capsys, group)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"Usage: grapevine-tui {group} ")
    assert max(map(len, ended.err.splitlines())) <= 100
    assert "\nCommands:\n" in ended.err


@pytest.mark.usefixtures("here")
def test_a_wrong_hook_is_shown_as_it_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, "--on", "bogus", "notify")
    assert ended.code == 2
    assert "not 'bogus notify' (--on)" in ended.err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "arguments",
    [
        ("ctl", "--json", "peers"),
        ("ctl", "peers", "--json"),
        ("ctl", "--json", "bogus"),
        ("ctl", "send", "--json"),
        ("ctl", "--bogus", "--json"),
        ("ctl", "--json", "trace", "--wait", "soon", "x"),
    ],
)
def test_ctl_answers_a_script_in_json_also_where_it_fails(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    ended = run(capsys, *arguments)
    assert ended.code in (1, 2)
    answer = json.loads(ended.out)
    assert answer["ok"] is False
    assert ended.err == f"grapevine-tui: {answer['error']}\n"


@pytest.mark.usefixtures("here")
def test_ctl_accepts_text_that_resembles_its_flag(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, "ctl", "broadcast", "--", "--json")
    assert (ended.code, ended.out) == (1, "")


@pytest.mark.usefixtures("here")
def test_help_names_every_flag_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("-h", "--help"):
        ended = run(capsys, flag)
        assert ended.code == 0
        for option in OPTIONS:
            for each in (*option.flags, option.env):
                assert each in ended.out
        for each in (
            "--headless",
            "--demo",
            "--show-config",
            "--version",
            "keygen",
            "config",
            "ctl",
            "invite",
            "join",
        ):
            assert each in ended.out


@pytest.mark.usefixtures("here")
def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    version = f"grapevine-tui, version {__version__}\ncompiled: {compiled}\n"
    assert run(capsys, "--version") == Ended(0, version, "")


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert version("grapevine-tui") == __version__


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--prot", "8000"], "--port"),
        (["--port"], "--port"),
        (["--port", "http"], "'http'"),
        (["--port", "70000"], "65535"),
        (["--fanout", "0"], "--fanout"),
        (["--peer", "somewhere"], "host:port"),
        (["--strategy", "gossip"], "epidemic"),
        (["--log-level", "loud"], "error, warn, info, debug, trace, off"),
        (["--on-eof", "run"], "exit, stay"),
        (["--config", "none.toml"], "no such file"),
        (["keygn"], "keygn"),
        (["config", "chek"], "chek"),
        (["config", "init", "--profile", "moon"], "local"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(capsys, *arguments)
    assert ended.code == 2
    assert_one_line(ended)
    assert expected in ended.err
    assert ended.out == ""


def test_an_unknown_key_in_a_settings_file_is_one_line_and_exit_2(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "gv.toml").write_text("\nfanot = 3\n")
    ended = run(capsys, "-c", "gv.toml", "--headless")
    assert ended.code == 2
    assert_one_line(ended)
    for part in ("gv.toml", "line 2", "fanot", "3", "did you mean fanout?"):
        assert part in ended.err


def test_control_characters_in_an_argument_do_not_reach_the_terminal(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "\x1b]0;x\x07.toml").write_text('"\\u001b[31m" = 1\n')
    ended = run(capsys, "-c", "\x1b]0;x\x07.toml")
    assert ended.code == 2
    assert_one_line(ended)
    assert "\x1b" not in ended.err
    assert "\x07" not in ended.err


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        (None, 0, "no such file"),
        ("c0ffee" * 10 + "c0ff\n", 0o644, "chmod 600"),
        ("c0ffee\n", 0o600, "64 hex digits"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_one_line_and_exit_3(
    text: str | None, mode: int, expected: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (here / "c.key").write_text(text)
        (here / "c.key").chmod(mode)
    ended = run(capsys, "-k", "c.key", "--headless")
    assert ended.code == 3
    assert_one_line(ended)
    assert expected in ended.err
    assert "c0ffee" not in ended.err


def test_a_busy_port_is_one_line_and_exit_4(environ: dict[str, str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as busy:
        busy.bind(("127.0.0.1", 0))
        port = str(busy.getsockname()[1])
        ended = in_process_of_its_own(environ, "--headless", "-p", port, "-l", "error")
    assert ended.code == 4
    assert_one_line(ended)
    assert port in ended.err
    assert ended.out == ""


def test_an_address_that_is_not_ours_is_exit_4(environ: dict[str, str]) -> None:
    ended = in_process_of_its_own(environ, "--headless", "-H", "192.0.2.1", "-l", "error")
    assert ended.code == 4
    assert_one_line(ended)


def test_without_a_terminal_the_app_suggests_headless_and_creates_nothing(
    environ: dict[str, str],
) -> None:
    ended = in_process_of_its_own(environ)
    assert ended.code == 2
    assert_one_line(ended)
    assert "--headless" in ended.err
    assert list(Path(environ["HOME"]).iterdir()) == []


def test_a_dumb_terminal_is_none(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    ended = run(capsys)
    assert ended.code == 2
    assert "--headless" in ended.err


def test_an_unreadable_user_directory_is_one_line_and_exit_3(
    monkeypatch: pytest.MonkeyPatch, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.exists", refuse)  # as root nothing is closed
    with pytest.raises(KeyFileError, match="Permission denied"):
        ensure_user_key()


def test_show_config_prints_values_and_origins_and_makes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / ".env").write_text("FANOUT=5\n")
    for arguments in (["-p", "9000", "--show-config"], ["-p", "9000", "config", "show"]):
        ended = run(capsys, *arguments)
        assert ended.code == 0
        lines = {
            line.split("  #")[0].strip(): line.split("# ")[1] for line in ended.out.splitlines()
        }
        assert lines["fanout = 5"] == ".env: FANOUT"
        assert lines["port = 9000"] == "--port"
    assert [path.name for path in here.iterdir()] == [".env"]


def test_keygen_makes_a_key_for_its_owner_alone_and_never_overwrites(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(capsys, "keygen", "c.key")
    path = here / "c.key"
    key = ClusterKey.load(path)
    assert ended.code == 0
    assert key.fingerprint in ended.out
    assert path.read_text().strip() not in ended.out
    again = run(capsys, "keygen", "c.key")
    assert again.code == 3
    assert_one_line(again)
    assert ClusterKey.load(path) == key


def test_keygen_without_a_file_makes_this_users_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "keygen").code == 0
    path = here / "config" / "grapevine" / "cluster.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_keygen_into_a_missing_directory_is_one_line_and_exit_3(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(capsys, "keygen", "no/c.key")
    assert ended.code == 3
    assert_one_line(ended)


def test_config_init_writes_a_file_that_is_right_and_never_overwrites(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for profile in PROFILES:
        name = f"{profile}.toml"
        assert run(capsys, "config", "init", name, "--profile", profile).code == 0
        assert (here / name).read_text(encoding="utf-8") == render(profile)
        assert run(capsys, "config", "check", name) == Ended(0, f"{name}: OK\n", "")
        again = run(capsys, "config", "init", name)
        assert again.code == 2
        assert_one_line(again)
    assert run(capsys, "config", "init").code == 0
    NodeConfig.from_toml(here / "config" / "grapevine" / "config.toml")


def test_config_check_finds_mistakes_and_bad_keys(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "gv.toml").write_text("fanout = 0\n")
    assert run(capsys, "config", "check", "gv.toml").code == 2
    (here / "gv.toml").write_text('key_files = ["none.key"]\n')
    ended = run(capsys, "config", "check", "gv.toml")
    assert ended.code == 3
    assert_one_line(ended)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x", "y"), 2),
        (KeyFileError("x"), 3),
        (BindError("x"), 4),
        (StateLockedError("x"), 5),
        (NotRunning("x"), 1),
        (OSError(28, "No space left on device", "f"), 1),
        (RuntimeError("two\nlines"), 1),
    ],
)
def test_every_error_has_its_code_and_its_line(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.print_error(error) == code
    assert_one_line(Ended(code, "", capsys.readouterr().err))


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0, 0o644), (0o022, 0o644), (0o077, 0o600)])
def test_a_new_config_file_is_readable_by_a_service_and_writable_only_by_its_owner(
    here: Path, capsys: pytest.CaptureFixture[str], umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        assert run(capsys, "config", "init", "new.toml").code == 0
    finally:
        os.umask(before)
    assert (here / "new.toml").stat().st_mode & 0o777 == mode
    assert run(capsys, "config", "check", "new.toml").code == 0


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_a_terminal_has_no_letters_for_is_printed_as_escapes(
    bench: Bench, encoding: str
) -> None:
    run, _ = bench.started("--name", "北京-1")
    state_dir = run.ask(cmd="status")["state_dir"]
    for arguments in (
        ("ctl", "--state-dir", state_dir, "status"),
        ("--name", "北京", "--show-config"),
    ):
        done = bench.command(*arguments, environ={"PYTHONIOENCODING": encoding})
        assert (done.returncode, done.stderr) == (0, "")
        assert ("\\u5317\\u4eac" in done.stdout) or encoding == "ascii"  # there click speaks UTF-8


def test_bytes_that_are_no_text_are_one_line_wherever_they_come_from(bench: Bench) -> None:
    odd = os.fsdecode(b"\xff\xe9")
    for arguments in (("ctl", "--state-dir", odd, "status"), (odd,), ("--name", odd, "--headless")):
        done = bench.command(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) != (0, "", 0)
        assert "\\udcff\\udce9" in done.stderr
        assert "fault" not in done.stderr
    done = bench.command("join", stdin=b"\xff\xfe")
    assert done.returncode == 1
    assert "invitation" in done.stderr


def test_a_file_whose_name_is_no_text_is_broadcast(bench: Bench) -> None:
    run, _ = bench.started()
    state_dir = run.ask(cmd="status")["state_dir"]
    path = bench.directory / os.fsdecode(b"\xff\xe9")
    path.write_bytes(b"hello")
    assert run.ask(cmd="broadcast", file=str(path))["ok"] is True
    done = bench.command("ctl", "--state-dir", state_dir, "broadcast", "--file", str(path))
    assert (done.returncode, done.stderr) == (0, "")
