"""Made-up replies to views of the network: three zones, one member down, one that does not answer, a one-way
and a half-seen link."""

from __future__ import annotations

import hashlib
from typing import Any

from grapevine_tui.host.views import ShowHolders, ShowMatrix, ShowRtt, ShowTopology

AS_OF: float = 1_763_726_395.0
ZONES = {"eu-west": ("ams-1", "ams-2", "fra-1", "par-1"), "us-east": ("nyc-1", "nyc-2", "bos-1"),
         "ap": ("sin-1", "syd-1")}  # fmt: skip
NAMES = tuple(name for names in ZONES.values() for name in names)
ZONE_OF = {name: zone for zone, names in ZONES.items() for name in names}
DOWN, SILENT = "bos-1", "syd-1"
BETWEEN_MS = {
    frozenset({"eu-west"}): 8.4, frozenset({"us-east"}): 5.1, frozenset({"ap"}): 94.0,
    frozenset({"eu-west", "us-east"}): 82.0, frozenset({"eu-west", "ap"}): 171.0,
    frozenset({"us-east", "ap"}): 221.0,
}  # fmt: skip


def an_id(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=32).hexdigest()


def rtt_ms(one: str, other: str) -> float:
    spread = (len(one) * 7 + sum(map(ord, one + other))) % 9
    return BETWEEN_MS[frozenset({ZONE_OF[one], ZONE_OF[other]})] * (1 + spread / 40)


def member(name: str) -> dict[str, Any]:
    return {
        "peer_id": an_id(name),
        "name": name,
        "zone": ZONE_OF[name],
        "state": "down" if name == DOWN else "up",
        "is_self": name == "ams-1",
    }


def a_matrix() -> dict[str, Any]:
    shown = [name for name in NAMES if name != DOWN]
    pairs = [
        {
            "a": row,
            "b": column,
            "rtt_ms": round(rtt_ms(one, shown[column]), 3),
            "rtt_error_ms": 3.5 if (row + column) % 3 == 0 else None,
            "rtt_source": "estimated" if (row + column) % 3 == 0 else "measured",
        }
        for row, one in enumerate(shown)
        for column in range(row)
        if (row, column) != (7, 3)
    ]
    return {
        "members": [member(name) for name in shown],
        "pairs": pairs,
        "left_out": 1,
        "as_of_unix": AS_OF,
        "members_asked": 9,
        "members_answered": 7,
    }


def a_topology() -> dict[str, Any]:
    links = []
    for row, one in enumerate(NAMES):
        for column in range(row):
            other = NAMES[column]
            if DOWN in (one, other) or (row + column) % 4 == 2:
                continue
            seen = "half" if SILENT in (one, other) else "both"
            seen = "one-way" if {one, other} == {"fra-1", "par-1"} else seen
            links.append(
                {
                    "a": an_id(one),
                    "b": an_id(other),
                    "rtt_ms": round(rtt_ms(one, other), 3),
                    "lost": 0,
                    "is_stale": False,
                    "seen": seen,
                    "seen_by": an_id(other),
                }
            )
    members = [member(name) | {"has_answered": name not in (DOWN, SILENT)} for name in NAMES]
    return {
        "members": members,
        "links": links,
        "as_of_unix": AS_OF,
        "members_asked": 9,
        "members_answered": 7,
        "message": None,
        "holders": None,
    }


def holder(name: str, has: bool | None, **fields: Any) -> dict[str, Any]:
    empty = {"via": None, "hops": None, "age_ms": None, "from": None}
    return member(name) | {"has": has} | empty | fields


def some_holders() -> list[dict[str, Any]]:
    origin = an_id("ams-1")
    return [
        holder("nyc-2", False),
        holder(DOWN, None),
        holder(SILENT, None),
        holder("ams-1", True, via="local", hops=0, age_ms=0, **{"from": origin}),
        holder("ams-2", True, via="eager", hops=1, age_ms=4, **{"from": origin}),
        holder("fra-1", True, via="eager", hops=1, age_ms=6, **{"from": origin}),
        holder("par-1", True, via="eager", hops=2, age_ms=11, **{"from": an_id("fra-1")}),
        holder("nyc-1", True, via="eager", hops=2, age_ms=48, **{"from": an_id("ams-2")}),
        holder("sin-1", True, via="repair", hops=3, age_ms=1_840, **{"from": an_id("nyc-1")}),
    ]


def a_network() -> dict[type, dict[str, Any]]:
    """A reply for each view."""
    holders = some_holders()
    return {
        ShowMatrix: a_matrix(),
        ShowTopology: a_topology(),
        ShowHolders: {
            "id": f"{an_id('ams-1')}:1763726000:7",
            "members": holders,
            "have_it": 6,
            "missing": 1,
            "no_answer": 2,
            "as_of_unix": AS_OF,
            "members_asked": 9,
            "members_answered": 7,
        },
        ShowRtt: {
            "peer_id": an_id("nyc-1"),
            "name": "nyc-1",
            "other_id": an_id("ams-1"),
            "other_name": "ams-1",
            "rtt_ms": 83.25,
            "rtt_error_ms": 2.5,
            "rtt_source": "estimated",
        },
    }
