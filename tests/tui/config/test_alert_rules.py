"""The rules of [app.alerts]: what they mean, and one clear line for each that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_proto.errors import ConfigError
from grapevine_tui.config.alert_rules import (
    MAX_RULES,
    MESSAGE_HOLD_S,
    READINGS,
    SECONDS,
    Trigger,
    Unit,
    format_reading,
    parse_alerts,
    parse_rule,
)
from grapevine_tui.config.settings import load_settings


@pytest.mark.parametrize(
    ("text", "reading", "sign", "limit", "for_s"),
    [
        ("peers < 3", "peers", "<", 3, 0),
        ("peers<3 for 30s", "peers", "<", 3, 30),
        ("peer.loss > 2% for 30s", "peer.loss", ">", 0.02, 30),
        ("peer.loss >= 2.5 %", "peer.loss", ">=", 0.025, 0),
        ("lag > 200ms", "lag", ">", 0.2, 0),
        ("peer.silent > 1.5m for 2h", "peer.silent", ">", 90, 7_200),
        ("messages <= 50/s", "messages", "<=", 50, 0),
        ("messages > 50", "messages", ">", 50, 0),
        ("  down   >  0  ", "down", ">", 0, 0),
    ],
)
def test_a_reading_is_compared_with_a_limit_in_base_units(
    text: str, reading: str, sign: str, limit: float, for_s: float
) -> None:
    rule = parse_rule("x", text)
    assert (rule.reading, rule.operator, rule.for_s) == (reading, sign, for_s)
    assert rule.limit == pytest.approx(limit)
    assert rule.trigger is Trigger.READING
    assert rule.is_of_peers == reading.startswith("peer.")


def test_a_rule_can_be_about_a_message_that_arrives_or_does_not() -> None:
    absent = parse_rule("x", "no message from:web-1 for 5m")
    assert (absent.trigger, absent.filter_text, absent.for_s) == (
        Trigger.NO_MESSAGE,
        "from:web-1",
        300,
    )
    assert parse_rule("x", "no messages for 10s").filter_text == ""
    present = parse_rule("x", 'message topic:deploy.> "waiting for 5m"')
    assert (present.trigger, present.for_s) == (Trigger.MESSAGE, MESSAGE_HOLD_S)
    assert present.filter_text == 'topic:deploy.> "waiting for 5m"'
    assert parse_rule("x", "message panic for 2m").for_s == 120


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("peer.los > 2%", "unknown reading 'peer.los'; did you mean peer.loss?"),
        ("zzz > 2", "unknown reading 'zzz'; readings: peers, members"),
        ("lag > 200", "lag: expected a time with its unit, such as 200ms, 5s or 2m, not '200'"),
        ("peer.loss > 2", "peer.loss: expected a share, such as 2%, not '2'"),
        ("peer.loss > 200%", "peer.loss: expected a share, such as 2%, not '200%'"),
        ("peers < three", "peers: expected a number, such as 3, not 'three'"),
        ("peers < -1", "peers: expected a number, such as 3, not '-1'"),
        ("messages > 5/m", "messages: expected a number per second"),
        ("peers = 3", "unknown comparison '='; expected >=, <=, >, <"),
        ("peers < 3 for ever", "for: expected a time, such as 30s, 5m or 1h, not 'ever'"),
        ("peers < 3 for 400d", "for: at most 30d, not 400d"),
        ("peers", 'expected a comparison, such as "peers < 3"'),
        ("pers", "did you mean peers?"),
        ("no message", '"no message" needs a time, such as "no message for 5m"'),
        ("no message for 0s", '"no message" needs a time'),
        ("message", '"message" needs a filter'),
        ("message fron:bob", "unknown field fron:; did you mean from:?"),
        ("no message xyz:1 for 5m", "unknown field xyz:; fields: from, to"),
    ],
)
def test_what_is_wrong_with_a_rule_is_one_line_with_the_nearest_valid_word(
    text: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_alerts({"mine": text})
    assert str(raised.value).startswith("app.alerts.mine: ")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given_value", "problem"),
    [
        ("x", "app.alerts: expected a section, [app.alerts], not a value"),
        ({"a b": "peers < 3"}, "app.alerts.a b: a name has letters, digits, - and _"),
        ({"x" * 33: "peers < 3"}, "at most 32"),
        ({"x": 3}, "app.alerts.x: expected a rule, such as"),
        ({"x": " "}, "app.alerts.x: expected a rule, such as"),
        ({"x": "message " + "y" * 300}, "longer than 256 characters"),
        ({f"a{n}": "peers < 3" for n in range(MAX_RULES + 1)}, "at most 64 alerts, got 65"),
    ],
)
def test_a_table_that_holds_no_rules_is_refused(given_value: object, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_alerts(given_value)
    assert problem in str(raised.value)


def test_the_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[app]\ntheme = ""\n\n[app.alerts]\nok = "peers < 3"\nbad = "peer.los > 2%"\n')
    with pytest.raises(ConfigError) as raised:
        load_settings({"app.config": str(path)}, {}, directory=tmp_path)
    assert str(raised.value) == (
        f"app.alerts.bad: unknown reading 'peer.los'; did you mean peer.loss? ({path}, line 6)"
    )
    path.write_text('[app.alerts]\nok = "peers < 3"\n')
    settings = load_settings({"app.config": str(path)}, {}, directory=tmp_path)
    assert [rule.name for rule in settings.alert_rules] == ["ok"]


@given(st.text(max_size=80))
def test_any_text_is_a_rule_or_one_line_that_says_why_not(text: str) -> None:
    problem = ""
    try:
        parse_rule("x", text)
    except ValueError as error:
        problem = str(error)
    assert "\n" not in problem


@given(
    st.sampled_from(sorted(READINGS)),
    st.sampled_from([">", "<", ">=", "<="]),
    st.integers(0, 99),
    st.sampled_from(sorted(SECONDS)),
    st.booleans(),
)
def test_every_reading_takes_a_limit_of_its_unit(
    reading: str, sign: str, number: int, unit: str, has_spaces: bool
) -> None:
    suffix = {Unit.SHARE: "%", Unit.TIME: unit}.get(READINGS[reading].unit, "")
    space = " " if has_spaces else ""
    rule = parse_rule("x", f"{reading}{space}{sign}{space}{number}{suffix} for 3s")
    assert rule.for_s == 3
    assert format_reading(reading, rule.limit)


def test_values_are_shown_with_their_unit() -> None:
    assert format_reading("peer.loss", 0.042) == "4.2 %"
    assert format_reading("lag", 0.2124) == "212 ms"
    assert format_reading("peer.silent", 12.34) == "12.3 s"
    assert format_reading("messages", 49.6) == "50/s"
    assert format_reading("peers", 2) == "2"
