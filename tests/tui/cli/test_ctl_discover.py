"""What ``ctl discover`` prints."""

from __future__ import annotations

from typing import Any

from grapevine_tui.cli.ctl import format_reply


def shown(*rows: tuple[str, str, str, str | None], problem: str = "") -> list[str]:
    names = ("address", "source", "name", "state")
    reply: dict[str, Any] = {
        "discovered": [dict(zip(names, row, strict=True)) for row in rows],
        "sources": [{"source": "mdns", "addresses": len(rows), "dropped": 0, "problem": problem}],
    }
    return list(format_reply("discover", reply))


def test_each_address_has_its_source_and_the_peer_that_is_there() -> None:
    assert shown(
        ("10.0.0.1:8000", "mdns", "ams-1", "connected"), ("10.0.0.2:8000", "mdns", "", None)
    ) == [
        "address        source  name   state",
        "10.0.0.1:8000  mdns    ams-1  connected",
        "10.0.0.2:8000  mdns    -      -",
    ]


def test_what_is_wrong_with_a_source_follows_and_is_printable() -> None:
    assert shown(problem="port 5353\x1b[2J is in use")[-1].startswith("mdns: port 5353")
    assert "\x1b" not in shown(problem="port 5353\x1b[2J is in use")[-1]


def test_without_a_source_it_says_how_to_add_one() -> None:
    (line,) = format_reply("discover", {"discovered": [], "sources": []})
    assert "--discover" in line
    assert "@FILE" in line
