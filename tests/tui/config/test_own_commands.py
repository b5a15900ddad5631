"""The commands of [app.commands]: what they run, and one clear line for each that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.errors import ConfigError
from grapevine_tui.app.selection import message_row, node_row
from grapevine_tui.config.edit import format_value, parse_value
from grapevine_tui.config.own_commands import (
    FIELDS,
    MAX_COMMANDS,
    MESSAGE_FIELDS,
    NODE_FIELDS,
    MissingField,
    OwnCommand,
    parse_commands,
)
from grapevine_tui.config.settings import load_settings
from grapevine_tui.config.toml_edit import edit_toml
from grapevine_tui.host.model import Model
from tests.tui.values import a_member, a_message, a_peer, an_id

PING = {"key": "alt+p", "words": "Ping it", "argv": ["ping", "-c", "3", "{host}"]}


def test_a_command_has_arguments_a_key_words_and_a_time_limit() -> None:
    (command,) = parse_commands({"ping": PING | {"timeout": 5}}, {})
    assert command == OwnCommand("ping", ("ping", "-c", "3", "{host}"), "alt+p", "Ping it", 5)
    assert command.placeholders == {"host"}
    (plain,) = parse_commands({"top": {"argv": ["top"]}}, {})
    assert (plain.key, plain.words, plain.timeout_s) == ("", "Run top", 30)


def test_placeholders_are_replaced_within_their_argument_and_other_braces_stay() -> None:
    command = OwnCommand("x", ("curl", "http://{host}:{port}/{}", '{"a": 1}', "{tag.role}"))
    row = {"host": "h; $(touch x)", "port": 80, "tags": {"role": "{host}"}}
    assert command.arguments_for(row) == [
        "curl",
        "http://h; $(touch x):80/{}",
        '{"a": 1}',
        "{host}",
    ]


@pytest.mark.parametrize(
    ("argument", "row", "problem"),
    [
        ("{host}", {}, "this row has no host"),
        ("{name}", {"name": ""}, "this row has no name"),
        ("{tag.role}", {"tags": {}}, "this row has no tag.role"),
        ("{name}", {"name": "--output=/etc/passwd"}, "name begins with - and would be taken"),
        ("x{name}", {"name": "a\0b"}, "name holds a null byte"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(
    argument: str, row: dict[str, Any], problem: str
) -> None:
    with pytest.raises(MissingField, match=problem):
        OwnCommand("x", ("echo", argument)).arguments_for(row)


@given(st.text(), st.text())
def test_a_value_never_becomes_a_second_argument_nor_an_option(name: str, zone: str) -> None:
    command = OwnCommand("x", ("echo", "{name}", "zone={zone}"))
    try:
        found = command.arguments_for({"name": name, "zone": zone})
    except MissingField:
        assert not name or not zone or "\0" in name + zone or name.startswith("-")
    else:
        assert found == ["echo", name, f"zone={zone}"]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"argv": ["ping", "{hots}"]}, "unknown placeholder {hots}; did you mean host?"),
        ({"agrv": ["ping"]}, "unknown entry 'agrv'; did you mean argv?"),
        ({}, 'argv: expected a list, such as ["ping", "{host}"]'),
        ({"argv": "ping {host}"}, "argv: expected a list"),
        ({"argv": []}, "argv: expected a list"),
        ({"argv": ["{name}"]}, "argv: the program itself cannot be a placeholder"),
        ({"argv": ["a\0b"]}, "no null bytes"),
        ({"argv": ["x"], "words": 3}, "words: expected one line of text"),
        ({"argv": ["x"], "timeout": 0}, "timeout: expected 1 to 600, got 0"),
        ({"argv": ["x"], "timeout": True}, "timeout: expected 1 to 600, got True"),
        ({"argv": ["x"], "key": "entr"}, "unknown key 'entr'; did you mean enter?"),
        ({"argv": ["x"], "key": "d"}, "'d' is already the key of redial"),
        ({"argv": ["x"], "key": "f9,M"}, "'M' is already the key of mute"),
        ({"argv": ["x"], "key": "ctrl+c"}, "'ctrl+c' is already the key of the app"),
        ("ping", 'expected { argv = ["PROGRAM", "ARGUMENT"] }'),
    ],
)
def test_what_is_wrong_with_a_command_is_one_line(entry: object, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_commands({"mine": entry}, {})
    assert str(raised.value).startswith("app.commands.mine: ")
    assert problem in str(raised.value)


def test_names_numbers_and_keys_are_limited() -> None:
    for given_value, problem in (
        ({"a b": PING}, "app.commands.a b: a name has lower-case letters"),
        ("x", "app.commands: expected a section"),
        ({f"c{n}": {"argv": ["x"]} for n in range(MAX_COMMANDS + 1)}, "at most 32 commands"),
        ({"a": PING, "b": PING}, "app.commands.b: 'alt+p' is already the key of a"),
    ):
        with pytest.raises(ConfigError) as raised:
            parse_commands(given_value, {})
        assert problem in str(raised.value)
    parse_commands({"a": PING | {"key": "d"}}, {"redial": "f5"})  # it has another key here
    with pytest.raises(ConfigError, match="'f5' is already the key of redial"):
        parse_commands({"a": PING | {"key": "f5"}}, {"redial": "f5"})


def test_the_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        '[app.keys]\nredial = "f5"\n[app.commands]\nok = { key = "d", argv = ["x"] }\n'
        'bad = { key = "f5", argv = ["x"] }\n'
    )
    with pytest.raises(ConfigError) as raised:
        load_settings({"app.config": str(path)}, {}, directory=tmp_path)
    assert str(raised.value) == (
        f"app.commands.bad: 'f5' is already the key of redial ({path}, line 5)"
    )


def test_a_command_is_typed_and_saved_on_one_line() -> None:
    value = {"ping": PING}
    assert parse_value("app.commands", format_value(value), {}) == value
    for text in ("", "[app.commands]\nold = 1\n# mine\n", "[app.commands]\nping = 3\n"):
        edited = edit_toml(text, {"app.commands.ping": PING, "app.commands.old": None})
        assert edited.comments_preserved
        assert 'ping = {key = "alt+p", words = "Ping it"' in edited.text
        assert "old" not in edited.text


def test_every_placeholder_is_a_field_of_a_row() -> None:
    model = Model()
    model.members = {an_id(1): a_member(1, "bob")}
    assert node_row(model, an_id(1))["status"] == "up"
    model.peers = {an_id(1): a_peer(1, "bob")}
    row = node_row(model, an_id(1))
    assert set(NODE_FIELDS) <= row.keys()
    assert (row["host"], row["port"]) == ("10.0.0.7", 8001)
    named = message_row(model, a_message(1, 1, b"text"))
    assert set(MESSAGE_FIELDS) <= named.keys()
    assert named["from_name"] == "bob"
    assert len(FIELDS) == len(set(FIELDS))
