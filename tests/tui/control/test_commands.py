"""What is typed becomes one command, or words that lead to the right one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.control.commands import (
    COMMANDS,
    Broadcast,
    Command,
    CommandError,
    Dial,
    Quit,
    Send,
    ShowHelp,
    ShowMembers,
    ShowPeers,
    ShowRounds,
    ShowStats,
    ShowStatus,
    complete_command,
    parse_command,
)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("hello  there ", Broadcast(b"hello  there")),
        ("/broadcast hello", Broadcast(b"hello")),
        ("/b größe", Broadcast("größe".encode())),
        ("//etc/hosts is gone", Broadcast(b"/etc/hosts is gone")),
        ("/send bob see you", Send("bob", b"see you")),
        ("/s  a3f9  see you", Send("a3f9", b"see you")),
        ('/s "db 3" see you', Send("db 3", b"see you")),
        ("/s [::1]:8000 x", Send("[::1]:8000", b"x")),
        ("/peers", ShowPeers()),
        ("/P", ShowPeers()),
        ("/members", ShowMembers()),
        ("/status", ShowStatus()),
        ("/st", ShowStatus()),
        ("/stats", ShowStats()),
        ("/rounds", ShowRounds()),
        ("/connect 127.0.0.1:8001", Dial("127.0.0.1:8001")),
        ("/dial node.example:8001", Dial("node.example:8001")),
        ("/help", ShowHelp()),
        ("/h b", ShowHelp("broadcast")),
        ("/? /send", ShowHelp("send")),
        ("/quit", Quit()),
        ("/exit", Quit()),
        ("/q", Quit()),
    ],
)
def test_a_line_is_one_command(line: str, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("/", "there is no /"),
        ("/borad hi", "did you mean /broadcast?"),
        ("/peer", "did you mean /peers?"),
        ("/xyzzy", "there are: /broadcast"),
        ("/b", "/broadcast TEXT"),
        ("/send", "/send PEER TEXT"),
        ("/send bob", "/send PEER TEXT"),
        ('/send "db 3"', "/send PEER TEXT"),
        ("/peers all", "takes nothing"),
        ("/connect", "HOST:PORT"),
        ("/connect a b", "HOST:PORT"),
        ("/help nothing", "there is no /nothing"),
        ("x\ud800", "Unicode"),
        ("/s bob \ud800", "Unicode"),
    ],
)
def test_an_invalid_line_is_rejected_with_a_reason(line: str, expected: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_command(line)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_every_line_either_parses_or_is_rejected(line: str) -> None:
    for each in (line, "/" + line, "/send " + line):
        with suppress(CommandError):
            parse_command(each)


def test_no_two_commands_share_a_name() -> None:
    names = [name for spec in COMMANDS for name in (spec.name, *spec.aliases)]
    assert len(names) == len(set(names))


def test_every_command_has_help_and_its_usage_begins_as_it_is_typed() -> None:
    for spec in COMMANDS:
        assert spec.help
        assert spec.usage.startswith(f"/{spec.name}")


def test_the_beginning_of_a_command_is_completed() -> None:
    assert complete_command("/st") == ("/status", "/stats")
    assert complete_command("/se") == ("/send ", "/settings")
    assert complete_command("hello") == ()
    assert complete_command("/peers ") == ()


def test_the_peer_of_a_send_is_completed_and_quoted_where_it_must_be() -> None:
    assert complete_command("/send b", ("bob", "Bea", "carol")) == ("/send bob ", "/send Bea ")
    (line,) = complete_command("/s d", ("db 3",))
    assert line == '/s "db 3" '
    assert parse_command(line + "hi") == Send("db 3", b"hi")
    assert complete_command("/send bob h", ("bob",)) == ()
    assert complete_command('/send "db', ("db 3",)) == ('/send "db 3" ',)
    assert complete_command('/send "db 3" h', ("db 3",)) == ()
    assert complete_command("/deny b", ("bob",)) == ("/deny bob",)
    assert complete_command("/connect b", ("bob",)) == ()
