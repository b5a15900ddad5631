"""A log line is one line, whatever a stranger put into it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from grapevine_tui import logs


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


def test_control_characters_and_line_ends_stay_inside_their_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.to_stderr("info")
    logging.getLogger("grapevine").warning("peer %s", "bob\x1b[31m\n2026-01-01 forged")
    (line,) = capsys.readouterr().err.splitlines()
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
    first, *rest = capsys.readouterr().err.splitlines()
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
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == shown


def test_a_log_file_is_made_with_its_folder_and_replaces_what_was_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.to_stderr("info")
    path = tmp_path / "state" / "grapevine.log"
    logs.to_file(path, "info")
    logging.getLogger("grapevine").info("hello \udce9")
    logs.to_nowhere()
    logging.getLogger("grapevine").error("unheard")
    assert capsys.readouterr().err == ""
    assert path.read_text(encoding="utf-8").count("\n") == 1
