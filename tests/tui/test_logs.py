"""A log record is one line, even with untrusted text in it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from grapevine_tui import logs
from grapevine_tui.background_writer import write_all
from grapevine_tui.logs import BackgroundHandler, LogFile
from tests.tui.runs import WAIT_S, Bench


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    root = logging.getLogger()
    handlers, level, is_raising = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers = []
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers, logging.raiseExceptions = handlers, is_raising
    root.setLevel(level)


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines on stderr so far."""
    logs.flush(WAIT_S)
    return capsys.readouterr().err.splitlines()


def test_control_characters_and_line_ends_stay_inside_their_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.to_stderr("info")
    logging.getLogger("grapevine").warning("peer %s", "bob\x1b[31m\n2026-01-01 forged")
    (line,) = written(capsys)
    assert "\x1b" not in line
    assert " warning grapevine: peer bob" in line


def test_a_traceback_follows_its_line_and_is_printable_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.to_stderr("info")
    try:
        raise RuntimeError("\x1b]0;x\x07")  # noqa: TRY301
    except RuntimeError:
        logging.getLogger("grapevine").exception("a fault")
    first, *rest = written(capsys)
    assert first.endswith("a fault")
    assert rest
    assert all(line.startswith("    ") and "\x1b" not in line for line in rest)


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("off", []),
        ("error", ["error"]),
        ("warn", ["error", "warning"]),
        ("info", ["error", "warning", "info"]),
        ("debug", ["error", "warning", "info", "debug"]),
        ("trace", ["error", "warning", "info", "debug", "trace"]),
    ],
)
def test_a_level_shows_what_is_as_grave(
    level: str, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    logs.to_stderr(level)
    for each in (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, logs.TRACE):
        logging.getLogger("grapevine").log(each, "x")
    assert [line.split()[1] for line in written(capsys)] == shown


def test_a_log_file_is_created_with_its_directory_and_replaces_the_old_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.to_stderr("info")
    path = tmp_path / "state" / "grapevine.log"
    logs.to_file(path, "info")
    logging.getLogger("grapevine").info("hello \udce9")
    logs.flush(WAIT_S)
    logs.to_null()
    logging.getLogger("grapevine").error("unheard")
    assert capsys.readouterr().err == ""
    assert path.read_text(encoding="utf-8").count("\n") == 1


def test_a_pipe_that_is_not_read_loses_lines_and_the_log_counts_them() -> None:
    reading, writing = os.pipe()
    handler = BackgroundHandler(partial(write_all, writing))
    handler.setFormatter(logs.PrintableFormatter())
    try:
        for number in range(3 * logs.MAX_QUEUED_LINES):
            handler.handle(logging.makeLogRecord({"msg": f"{number}", "levelname": "INFO"}))
        lost = handler.dropped
        assert 0 < lost <= 2 * logs.MAX_QUEUED_LINES
        with os.fdopen(os.dup(reading), encoding="utf-8") as lines:
            for _ in range(3 * logs.MAX_QUEUED_LINES - lost):
                assert "info" in lines.readline()
            assert f"warning grapevine.log: {lost} lines are missing" in lines.readline()
        assert handler.dropped == lost
    finally:
        handler.close()
        os.close(reading)
        os.close(writing)


def test_lines_that_could_not_be_written_are_counted_until_one_can_be() -> None:
    is_full, written = True, bytearray()

    def write(data: bytes) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.extend(data)

    handler = BackgroundHandler(write)
    for number in range(3):
        handler.handle(logging.makeLogRecord({"msg": f"{number}"}))
        assert handler.wait(WAIT_S)
    is_full = False
    handler.handle(logging.makeLogRecord({"msg": "room again"}))
    assert handler.wait(WAIT_S)
    handler.close()
    first, second = written.decode().splitlines()
    assert first == "room again"
    assert second.startswith("3 lines are missing")


def test_a_file_turns_over_when_it_has_grown_and_keeps_so_many_old_ones(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", max_bytes=10, rotated_files=2)
    for line in (b"12345678\n", b"b\n", b"cccccccc\n", b"dddddddd\n"):
        file.write(line)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert kept == {"log": b"dddddddd\n", "log.1": b"cccccccc\n", "log.2": b"b\n"}


def test_a_named_pipe_without_a_reader_is_rejected_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        LogFile(tmp_path / "pipe")


def test_a_rotated_log_file_is_reopened_at_a_hangup(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs.to_file(path, "info")
    logging.getLogger("grapevine").info("before")
    logs.flush(WAIT_S)
    path.rename(tmp_path / "log.1")
    logs.reopen()
    logs.flush(WAIT_S)
    assert path.read_bytes() == b""
    path.unlink()
    logging.getLogger("grapevine").info("after")
    logs.flush(WAIT_S)
    assert "before" in (tmp_path / "log.1").read_text()
    assert "after" in path.read_text()


def test_a_node_whose_stderr_is_not_read_answers_and_leaves(bench: Bench) -> None:
    run, _ = bench.started("--log-level", "trace", "--on", "message", "/none")
    assert run.process.stderr is not None
    fcntl.fcntl(run.process.stderr, 1031, 4096)  # F_SETPIPE_SZ: a small pipe is sooner full
    for number in range(100):
        assert run.ask(cmd="broadcast", text=f"{number}")["ok"]
    assert run.end() == 0
    assert run.seen[-1]["reason"] == "sigterm"


def test_a_hangup_reopens_the_log_file_of_a_node(bench: Bench) -> None:
    path = bench.directory / "log"
    run, _ = bench.started("--log-file", str(path))
    path.rename(bench.directory / "log.1")
    run.process.send_signal(signal.SIGHUP)
    while not path.exists():
        assert run.ask(cmd="status")["ok"]
    assert run.end() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_a_log_file_is_private_and_none_that_others_can_write_is_written(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        LogFile(tmp_path / "new.log")
    finally:
        os.umask(before)
    assert (tmp_path / "new.log").stat().st_mode & 0o777 == 0o600
    (tmp_path / "theirs.log").write_bytes(b"")
    (tmp_path / "theirs.log").chmod(0o666)
    with pytest.raises(OSError, match="writable by others"):
        LogFile(tmp_path / "theirs.log")
    (tmp_path / "ours.log").write_bytes(b"")
    (tmp_path / "ours.log").chmod(0o640)  # readable for a log collector
    LogFile(tmp_path / "ours.log")
    LogFile(Path(os.devnull))
