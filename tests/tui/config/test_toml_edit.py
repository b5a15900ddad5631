"""A settings file is changed where it must be and left alone where it need not be."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.config.sources import TABLE_SETTINGS
from grapevine_tui.config.template import render
from grapevine_tui.config.toml_edit import edit_toml

FILE = """\
# mine
fanout = 3  # three is right
name = "a # b"   # not a comment inside
bootstrap_peers = [
    "127.0.0.1:1",  # the first
    "[::1]:2",
]

# how it spreads
[epidemic]
hops = 10
# max_forwards = 5

# the app
[app]
theme = ""
"""


def test_a_value_is_put_in_the_place_of_the_old_one_with_its_comment() -> None:
    text = edit_toml(FILE, {"fanout": 4, "name": "x"}).text
    assert text == FILE.replace("fanout = 3", "fanout = 4").replace('"a # b"', '"x"')


def test_a_value_of_several_lines_is_replaced_whole() -> None:
    text = edit_toml(FILE, {"bootstrap_peers": ["10.0.0.1:5"]}).text
    assert tomllib.loads(text)["bootstrap_peers"] == ["10.0.0.1:5"]
    assert "# the first" not in text
    assert text.startswith("# mine\n")
    assert "# how it spreads\n[epidemic]" in text


def test_a_new_setting_goes_to_its_comment_or_to_the_end_of_its_section() -> None:
    text = edit_toml(FILE, {"epidemic.max_forwards": 7, "zone": "eu", "app.messages": 5}).text
    assert "# max_forwards = 5\nmax_forwards = 7\n" in text
    assert ']\nzone = "eu"\n\n# how it spreads' in text
    assert text.endswith('theme = ""\nmessages = 5\n')


def test_a_section_that_is_not_there_is_added() -> None:
    text = edit_toml(FILE, {"rate_limit.capacity": 5}).text
    assert text == FILE + "\n[rate_limit]\ncapacity = 5\n"
    assert edit_toml("", {"app.theme": "nord"}).text == '[app]\ntheme = "nord"\n'


def test_dotted_names_tables_in_a_line_and_sections_in_pieces_are_edited_where_they_stand() -> None:
    text = "# mine\nepidemic.hops = 3\napp = {theme = 'x'}\n"
    result = edit_toml(text, {"epidemic.hops": 4, "app.theme": "y"})
    assert result == ('# mine\nepidemic.hops = 4\napp = {theme = "y"}\n', True)
    text = "[app]\ntheme = 'x'  # mine\n[epidemic]\nhops = 3\n[app.keys]\npause = 'o'\n"
    result = edit_toml(text, {"app.theme": "y", "app.messages": 5, "app.keys.help": "h"})
    assert result.comments_preserved
    assert "# mine" in result.text
    assert tomllib.loads(result.text)["app"] == {
        "theme": "y",
        "messages": 5,
        "keys": {"pause": "o", "help": "h"},
    }


def test_a_file_that_cannot_be_edited_in_place_is_rewritten_and_that_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("grapevine_tui.config.toml_edit._set_value", lambda text, *_: text)
    result = edit_toml("# mine\nfanout = 3\n", {"fanout": 4})
    assert result == ("fanout = 4\n", False)


def test_invalid_toml_is_rejected() -> None:
    with pytest.raises(ValueError, match="Expected"):
        edit_toml("nonsense", {"fanout": 3})
    with pytest.raises(ValueError, match="not a section"):
        edit_toml("epidemic = 3", {"epidemic.hops": 3})


@pytest.mark.parametrize("profile", ["local", "lan", "wan"])
def test_every_setting_of_our_own_files_can_be_changed_with_all_comments_kept(profile: str) -> None:
    text = render(profile)
    comments = [line for line in text.splitlines() if line.startswith("#")]
    settings = tomllib.loads(text)
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}.{each}" if each else name: found for each, found in inner}
    changes = {name: _other(value) for name, value in flat.items()} | {
        "name": "x",
        "app.keys.pause": "o",
    }
    for name in TABLE_SETTINGS:  # sections of their own
        del changes[name]
    result = edit_toml(text, changes)
    assert result.comments_preserved
    assert [line for line in result.text.splitlines() if line.startswith("#")] == comments


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return (
        value * 2 + 1 if isinstance(value, int | float) else [*value, "x"] if value == [] else "x"
    )


_VALUES = st.one_of(
    st.booleans(),
    st.integers(-9, 9),
    st.text(max_size=12),
    st.lists(st.text(max_size=8), max_size=3),
)
_NAMES = st.sampled_from(
    ["fanout", "zone", "epidemic.hops", "app.theme", "app.on", "limits.origins"]
)


@given(st.dictionaries(_NAMES, _VALUES, max_size=4), st.dictionaries(_NAMES, _VALUES, max_size=4))
def test_what_comes_out_means_what_it_should(
    before: dict[str, Any], changes: dict[str, Any]
) -> None:
    def nested(flat: dict[str, Any]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for name, value in flat.items():
            section, _, key = name.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[key] = value
        return tree

    text = tomli_w.dumps(nested(before))
    assert tomllib.loads(edit_toml(text, changes).text) == nested(before | changes)
