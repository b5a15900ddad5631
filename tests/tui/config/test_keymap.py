"""The table of keys: no two meanings for one key, and what a config file may say of it."""

from __future__ import annotations

from typing import Any

import pytest

from grapevine_proto.errors import ConfigError
from grapevine_tui.config.keymap import (
    ACTION_NAMES,
    SIMULTANEOUS_KEYS,
    apply_keymap,
    parse_keymap,
)


def test_our_own_keys_do_not_clash() -> None:
    assert parse_keymap({}) == {}


def test_one_name_has_the_same_keys_and_description_everywhere() -> None:
    for group in SIMULTANEOUS_KEYS:
        keys = [key for part in group for key in part]
        assert len({key.name for key in keys}) == len(keys)
    assert all(name.isidentifier() for name in ACTION_NAMES)


def test_keys_are_read_as_people_write_them() -> None:
    assert parse_keymap({"help": "?,f1", "sort": "o", "pause": "ctrl+o", "filter": "-"}) == {
        "help": "question_mark,f1", "sort": "o", "pause": "ctrl+o", "filter": "minus",
    }  # fmt: skip


def test_two_actions_may_change_places() -> None:
    chosen = parse_keymap({"sort": "r", "reverse": "s"})
    assert {key.name: key.keys for key in apply_keymap(SIMULTANEOUS_KEYS[0][2], chosen)}[
        "sort"
    ] == "r"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"srot": "x"}, "app.keys.srot: unknown action; did you mean sort?"),
        ({"xyzzy": "x"}, "actions: help, commands"),
        ({"sort": "entr"}, "app.keys.sort: unknown key 'entr'; did you mean enter?"),
        ({"sort": "hyper+x"}, "unknown key 'hyper+x'"),
        ({"sort": ""}, "expected keys separated by commas"),
        ({"sort": 3}, "expected keys separated by commas"),
        ({"sort": "x,,y"}, "unknown key ''"),
        ({"sort": "q"}, "app.keys.sort: 'q' is already the key of quit"),
        ({"sort": "x", "zoom": "x"}, "'x' is already the key of"),
        ("s", "expected a section, [app.keys], not a value"),
    ],
)
def test_an_invalid_keymap_is_rejected_with_a_reason(given: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_keymap(given)
    assert expected in str(caught.value)
