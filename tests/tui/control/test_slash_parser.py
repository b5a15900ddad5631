"""Slash commands: parsing, options, errors, completion, and lines that were meant to be commands."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.control.commands import (
    Broadcast,
    ChangeTags,
    Command,
    CommandError,
    Deny,
    Dial,
    Filter,
    NodeAction,
    Publish,
    ScreenAction,
    Send,
    SetSettings,
    Show,
    ShowHelp,
    ShowMembers,
    find_command,
)
from grapevine_tui.control.slash_parser import (
    KnownNames,
    complete_command,
    intended_command,
    parse_command,
)
from grapevine_tui.host.access_state import AccessState
from grapevine_tui.host.ask_members import AskMembers


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
        ("/peers", Show.PEERS),
        ("/P", Show.PEERS),
        ("/members", ShowMembers()),
        ("/status", Show.STATUS),
        ("/st", Show.STATUS),
        ("/stats", Show.STATS),
        ("/rounds", Show.ROUNDS),
        ("/connect 127.0.0.1:8001", Dial("127.0.0.1:8001")),
        ("/deny bob", Deny("bob")),
        ("/deny --for 600 bob", Deny("bob", 600)),
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
        ("/query uptime", AskMembers("uptime")),
        ("/query uptime since  boot ", AskMembers("uptime", b"since  boot")),
        ("/query --zone eu uptime", AskMembers("uptime", zone="eu")),
        (
            '/query uptime --zone "us west" --limit=3 --sample 5 --timeout  9 now',
            AskMembers("uptime", b"now", zone="us west", limit=3, sample=5, timeout_s=9),
        ),
        ("/query uptime -- --zone", AskMembers("uptime", b"--zone")),
        ("/query uptime now --zone eu", AskMembers("uptime", b"now --zone eu")),
        ("/publish a.b --expires 60 x", Publish("a.b", b"x", 60)),
        ("/publish --expires 60 a.b x", Publish("a.b", b"x", 60)),
        ("/publish --retain web a.b x", Publish("a.b", b"x", retain="web")),
        ("/b --hello", Broadcast(b"--hello")),
        (
            "/query --tag role=web --tag rack=7 load",
            AskMembers("load", tags={"role": "web", "rack": "7"}),
        ),
        ("/members --tag role=web", ShowMembers({"role": "web"})),
        ("/state", AccessState()),
        ("/state list cfg/", AccessState("list", "cfg/")),
        ("/state GET cfg/limit", AccessState("get", "cfg/limit")),
        ("/state set cfg/limit 10 MB", AccessState("set", "cfg/limit", b"10 MB")),
        (
            "/state set --ttl 60 --durable k v",
            AccessState("set", "k", b"v", ttl_s=60, durable=True),
        ),
        ("/state del cfg/limit", AccessState("del", "cfg/limit")),
        ("/tags", ChangeTags()),
        ('/tags set role=web rack="row 7"', ChangeTags("set", ("role=web", "rack=row 7"))),
        ("/tags unset role", ChangeTags("unset", ("role",))),
        ("/help", ShowHelp()),
        ("/h b", ShowHelp("broadcast")),
        ("/? /send", ShowHelp("send")),
        ("/leave", NodeAction.LEAVE),
        ("/quit", NodeAction.LEAVE),
        ("/exit", NodeAction.LEAVE),
        ("/q", NodeAction.LEAVE),
    ],
)
def test_a_line_is_one_command(line: str, command: Command) -> None:
    assert repr(parse_command(line)) == repr(command)  # commands of two types can be equal


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
        ("/query", "missing NAME; usage: /query [OPTIONS] NAME [TEXT]"),
        ("/query --zone eu", "missing NAME"),
        ("/query uptime --zone", "--zone needs NAME"),
        ("/query uptime --limit many", "--limit needs a whole number, not 'many'"),
        ("/query uptime --zon eu", "has no option --zon; it has --zone, --tag, --nearest, --limit"),
        ("/query uptime --x --zone", "put -- before it"),
        ("/publish a.b --expires 60", "missing TEXT"),
        ("/state got cfg", "unknown action 'got'; did you mean get?"),
        ("/state xyzzy", "expected one of list, get, set, del, watch"),
        ("/state get", "state get needs KEY"),
        ("/state set k", "needs a value"),
        ("/state del k v", "takes no value"),
        ("/state get k --ttl 5", "belong to state set"),
        ("/state --ttl 5 get k", "belong to state set"),
        ("/tags set", "needs tags"),
        ("/tags set role", "expected NAME=VALUE"),
        ("/tags unset role=web", "needs names"),
        ("/members --tag role", "expected NAME=VALUE"),
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
    starts = ("", "/", "/send ", "/deny ", "/set_settings ", "/query x --", "/publish a ")
    for each in (start + line for start in starts):
        assert isinstance(complete_command(each), tuple)
        with suppress(CommandError):
            parse_command(each)


def test_the_commands_of_grapevine_1_keep_their_names() -> None:
    for name in ("broadcast", "send", "peers", "status", "help", "quit", "exit"):
        assert find_command(name)
    short = {"b": "broadcast", "s": "send", "p": "peers", "st": "status", "h": "help", "?": "help"}
    for name, full_name in (short | {"q": "leave"}).items():
        assert find_command(name).name == full_name


def test_the_beginning_of_a_command_is_completed() -> None:
    assert complete_command("/st") == ("/state ", "/status", "/stats")
    assert complete_command("/se") == ("/send ", "/settings", "/set_settings ")
    assert complete_command("/qu") == ("/query ", "/queries")
    assert complete_command("/qui") == ("/quit",)
    assert complete_command("/con") == ("/connect ", "/context ")
    assert complete_command("hello") == ()
    assert complete_command("/peers ") == ()


def test_the_peer_of_a_send_is_completed_and_quoted_where_it_must_be() -> None:
    assert complete_command("/send b", KnownNames(peers=("bob", "Bea", "carol"))) == (
        "/send bob ",
        "/send Bea ",
    )
    (line,) = complete_command("/s d", KnownNames(peers=("db 3",)))
    assert line == '/s "db 3" '
    assert parse_command(line + "hi") == Send("db 3", b"hi")
    assert complete_command("/send bob h", KnownNames(peers=("bob",))) == ()
    assert complete_command('/send "db', KnownNames(peers=("db 3",))) == ('/send "db 3" ',)
    assert complete_command('/send "db 3" h', KnownNames(peers=("db 3",))) == ()
    assert complete_command("/deny b", KnownNames(peers=("bob",))) == ("/deny bob",)
    assert complete_command("/connect b", KnownNames(peers=("bob",))) == ()


KNOWN = KnownNames(
    topics=("deploy.web", "deploy.db", "metrics"),
    queries=("uptime",),
    zones=("eu", "us west"),
    keys=("cfg/limit",),
    tags=("role=web",),
    contexts=("eu", "eu-test", "us"),
)


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("/publish d", ["/publish deploy.web ", "/publish deploy.db "]),
        ("/publish --expires 60 m", ["/publish --expires 60 metrics "]),
        ("/publish deploy.web d", []),
        ("/subscribe d", ["/subscribe deploy.>", "/subscribe deploy.db", "/subscribe deploy.web"]),
        ("/subscribe x", []),
        ("/query u", ["/query uptime "]),
        ("/query uptime --z", ["/query uptime --zone "]),
        ("/query uptime --zone ", ["/query uptime --zone eu ", '/query uptime --zone "us west" ']),
        ("/query --zone e", ["/query --zone eu "]),
        ("/query --zone=eu --l", ["/query --zone=eu --limit "]),
        ("/query --zone eu --z", []),
        ("/query --limit ", []),
        ("/query uptime text --z", []),
        ("/query uptime -- --z", []),
        ("/help sen", ["/help send"]),
        ("/state s", ["/state set "]),
        ("/state set c", ["/state set cfg/limit "]),
        ("/state set --d", ["/state set --durable "]),
        ("/state set --durable c", ["/state set --durable cfg/limit "]),
        ("/state set cfg/limit c", []),
        ("/tags unset r", ["/tags unset role=web"]),
        ("/members --tag r", ["/members --tag role=web "]),
        (
            "/query --tag role=web --t",
            ["/query --tag role=web --tag ", "/query --tag role=web --timeout "],
        ),
        ("/ctx e", ["/ctx eu", "/ctx eu-test"]),
        ("/context u", ["/context us"]),
        ("/fleet me", ["/fleet members", "/fleet messages"]),
        ("/broadcast d", []),
    ],
)
def test_what_a_command_takes_is_completed(line: str, completed: list[str]) -> None:
    assert list(complete_command(line, KNOWN)) == completed


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("i/query x", "/query x"),
        (" i/query x", "/query x"),
        ("ii/QUERY x", "/QUERY x"),
        ("i//quit", ""),
        ("1/peers", "/peers"),
        (":query x", "/query x"),
        (":/query x", "/query x"),
        (": peers", "/peers"),
        ("i/b hello", "/b hello"),
        ("s/b hello", ""),
        ("and/or", ""),
        ("n/a", ""),
        ("24/7", ""),
        ("http/status", ""),
        ("see i/query x", ""),
        (":)", ""),
        ("/query x", ""),
        ("//query x", ""),
        ("hello", ""),
        ("", ""),
    ],
)
def test_a_command_behind_stray_keys_is_recognized(line: str, command: str) -> None:
    assert intended_command(line) == command


def test_the_key_before_a_shorthand_is_the_one_that_focuses_the_box() -> None:
    assert intended_command("w/b hello", write_key="w") == "/b hello"
    assert intended_command("i/b hello", write_key="w") == ""
