"""Slash commands: parsing, errors and completion."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.control.commands import (
    Broadcast,
    Command,
    CommandError,
    Deny,
    Dial,
    Filter,
    Leave,
    ScreenAction,
    Send,
    SetSettings,
    ShowHelp,
    ShowMembers,
    ShowPeers,
    ShowRounds,
    ShowStats,
    ShowStatus,
    complete_command,
    find_command,
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
        ("/deny bob", Deny("bob")),
        ('/deny "db 3"', Deny("db 3")),
        ("/deny db 3", Deny("db 3")),
        ("/filter", Filter("")),
        ("/filter from:bob x", Filter("from:bob x")),
        ("/copy_id", ScreenAction.COPY_ID),
        ("/set_settings fanout=5", SetSettings((("fanout", "5"),))),
        (
            '/set_settings zone="us west" fanout=',
            SetSettings((("zone", "us west"), ("fanout", ""))),
        ),
        ("/dial node.example:8001", Dial("node.example:8001")),
        ("/help", ShowHelp()),
        ("/h b", ShowHelp("broadcast")),
        ("/? /send", ShowHelp("send")),
        ("/leave", Leave()),
        ("/quit", Leave()),
        ("/exit", Leave()),
        ("/q", Leave()),
    ],
)
def test_a_line_is_one_command(line: str, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("/", "unknown command /"),
        ("/borad hi", "did you mean /broadcast?"),
        ("/peer", "did you mean /peers?"),
        ("/xyzzy", "/help lists them"),
        ("/watch", "unknown command"),
        ("/b", "/broadcast TEXT"),
        ("/send", "/send PEER TEXT"),
        ("/send bob", "/send PEER TEXT"),
        ('/send "db 3"', "/send PEER TEXT"),
        ("/peers all", "takes no arguments"),
        ("/connect", "missing HOST:PORT; usage: /dial HOST:PORT"),
        ("/connect a b", "too many arguments; usage: /dial HOST:PORT"),
        ('/deny "a" b', "too many arguments"),
        ("/deny", "missing PEER"),
        ('/deny ""', "missing PEER"),
        ("/set_settings", "NAME=VALUE"),
        ("/set_settings fanout", "expected NAME=VALUE"),
        ("/set_settings =5", "expected NAME=VALUE"),
        ("/set_settings a=1 a=2", "set twice"),
        ('/set_settings a="1', "No closing quotation"),
        ("/help nothing", "unknown command /nothing"),
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
    for each in (line, "/" + line, "/send " + line, "/deny " + line, "/set_settings " + line):
        with suppress(CommandError):
            parse_command(each)


def test_the_commands_of_grapevine_1_keep_their_names() -> None:
    for name in ("broadcast", "send", "peers", "status", "help", "quit", "exit"):
        assert find_command(name)
    short = {"b": "broadcast", "s": "send", "p": "peers", "st": "status", "h": "help", "?": "help"}
    for name, full_name in (short | {"q": "leave"}).items():
        assert find_command(name).name == full_name


def test_the_beginning_of_a_command_is_completed() -> None:
    assert complete_command("/st") == ("/status", "/stats")
    assert complete_command("/se") == ("/send ", "/settings", "/set_settings ")
    assert complete_command("/qu") == ("/query ",)
    assert complete_command("/qui") == ("/quit",)
    assert complete_command("/con") == ("/connect ",)
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
