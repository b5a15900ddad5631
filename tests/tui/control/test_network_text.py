"""Views of the network as text: marks, shades, what stands out, and hostile names."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from grapevine_tui.control.network_text import (
    Matrix,
    age_text,
    answered_text,
    format_rtt,
    holder_rows,
    holders_summary,
    matrix_lines,
    plain,
    rtt_text,
    topology_dot,
    topology_lines,
)
from grapevine_tui.host.views import ShowHolders, ShowRtt
from grapevine_tui.text import cells
from tests.tui.network_values import AS_OF, a_matrix, a_network, a_topology, an_id, some_holders

HOSTILE = "\x1b[31mred\u202e[@click=app.quit]"


@pytest.mark.parametrize(
    ("rtt_ms", "source", "text"),
    [
        (None, None, "-"),
        (0.04, "measured", "0.0"),
        (9.94, "measured", "9.9"),
        (9.96, "measured", "10"),
        (1234.5, "measured", "1,234"),
        (83.2, "estimated", "~83"),
    ],
)
def test_round_trip_times_are_short_and_estimates_are_marked(
    rtt_ms: float | None, source: str | None, text: str
) -> None:
    assert format_rtt(rtt_ms, source) == text


def test_a_round_trip_time_has_its_ends_source_and_error() -> None:
    reply = a_network()[ShowRtt]
    assert rtt_text(reply) == "nyc-1 - ams-1: ~83 ms (estimated, ± 2.5 ms)"
    unknown = reply | {"rtt_ms": None, "name": HOSTILE}
    assert "not known yet" in rtt_text(unknown)
    assert rtt_text(unknown).isprintable()


def test_the_age_counts_from_when_members_were_asked() -> None:
    assert age_text(a_matrix(), AS_OF + 12).endswith(", 12 s ago")
    assert answered_text(a_matrix()) == "7 of 9 answered"


@pytest.mark.parametrize("width", [30, 40, 80, 120, 200])
@pytest.mark.parametrize("lay_out", [matrix_lines, topology_lines])
def test_no_line_is_wider_than_asked_and_all_are_printable(lay_out: Any, width: int) -> None:
    reply = a_matrix() if lay_out is matrix_lines else a_topology() | {"holders": some_holders()}
    reply["members"][1]["name"] = HOSTILE
    reply["members"][2]["zone"] = HOSTILE
    reply["members"][3]["name"] = "日本" * 9
    lines = plain(lay_out(reply, width))
    assert max(map(cells, lines)) <= width
    assert all(line.isprintable() for line in lines)


def test_every_pair_is_in_the_matrix_once_per_direction() -> None:
    text = "\n".join(plain(matrix_lines(a_matrix(), 200)))
    assert "?" in text, "a pair without coordinates"
    assert text.count("~") >= 2 * 8
    assert "eu-west - us-east" in text
    assert "members left out: 1" in text


def test_shades_are_fifths_of_what_is_shown() -> None:
    matrix = Matrix.of(a_matrix())
    steps = [matrix.step(each["rtt_ms"]) for each in a_matrix()["pairs"]]
    assert set(steps) == {0, 1, 2, 3, 4}
    alike = a_matrix()
    for each in alike["pairs"]:
        each["rtt_ms"] = 30.0
    assert {Matrix.of(alike).step(30.0)} == {0}


def test_a_cluster_of_one_has_nothing_to_show() -> None:
    reply = a_topology()
    reply["members"] = reply["members"][:1]
    assert "No other members" in plain(topology_lines(reply, 80))[0]
    assert "No other members" in plain(matrix_lines(reply, 80))[0]


def test_the_topology_names_what_stands_out() -> None:
    text = "\n".join(plain(topology_lines(a_topology(), 120)))
    assert "one-way: fra-1 lists par-1, which does not list it" in text
    assert "half-seen: " in text
    assert "down, no answer" in text
    assert "2 of 3 up" in text
    stale = a_topology()
    stale["links"] = [deepcopy(stale["links"][0]) | {"is_stale": True}]
    assert "silent: " in "\n".join(plain(topology_lines(stale, 120)))


def test_the_tree_of_a_message_hangs_from_its_origin() -> None:
    reply = a_topology() | {"message": "ab:1:7", "holders": some_holders()}
    text = "\n".join(plain(topology_lines(reply, 160)))
    tree = text[text.index("Tree of") :].splitlines()[1:]
    assert tree[0].split() == ["ams-1", "sent,", "0", "ms"]
    assert tree[1].startswith("    └ ams-2")
    assert tree[2].startswith("      └ nyc-1")
    assert "nyc-2: missing" in text
    assert "message: 2 hops" in text


def test_members_that_name_each_other_as_source_are_still_listed() -> None:
    holders = some_holders()
    for each in holders:
        if each["has"]:
            each["from"] = an_id("par-1") if each["name"] == "fra-1" else an_id("fra-1")
    reply = a_topology() | {"message": "ab:1:7", "holders": holders}
    text = "\n".join(plain(topology_lines(reply, 160)))
    assert "par-1: has it" in text


def test_holders_are_rows_with_the_missing_first() -> None:
    reply = a_network()[ShowHolders]
    assert holders_summary(reply) == "6 have it, 1 do not, 2 did not answer"
    rows = holder_rows(reply)
    assert [row["message"] for row in rows[:3]] == ["missing", "no answer", "no answer"]
    assert rows[3] | {"from": ""} == rows[3], "the origin has it from nobody"
    assert (rows[6]["member"], rows[6]["from"], rows[6]["hops"]) == ("par-1", "fra-1", 2)


def test_the_graph_quotes_what_members_say() -> None:
    reply = a_topology()
    reply["members"][0]["name"] = 'a"]; evil\\'
    text = "\n".join(topology_dot(reply))
    assert r'label="a\"]; evil\\"' in text
    assert text.count(" -- ") == len(reply["links"])
    assert text.count("subgraph") == 3


def test_of_many_links_the_nearest_and_those_that_stand_out_are_shown() -> None:
    reply = a_topology()
    one = an_id("ams-1")
    for number in range(40):
        other = an_id(f"many-{number}")
        member = reply["members"][1] | {"peer_id": other, "name": f"many-{number}"}
        reply["members"].append(member)
        seen = "one-way" if number == 39 else "both"
        link = {"a": one, "b": other, "rtt_ms": 10.0 + number, "seen": seen, "seen_by": one}
        reply["links"].append(link | {"lost": 0, "is_stale": False})
    text = "\n".join(plain(topology_lines(reply, 200)))
    assert "the nearest " in text
    assert "many-39 49 one-way" in text
    assert "many-30 40" not in text
