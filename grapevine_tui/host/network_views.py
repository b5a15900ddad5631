"""What an operator asks of the whole network: how far members are, which are linked, which have a message.

Invariants:

- Links and cached messages are what members answer to the queries ``grapevine.links`` and ``grapevine.has``;
  what one of them answers for itself is checked, and says nothing of others but its own links.
- A link counts as seen from both ends only if both answered and name each other. A member without an answer
  is listed as such.
- Each reply names when it was asked (``as_of_unix``), so what is shown has an age.
- Lists are limited: `MATRIX_LIMIT` members have N x N pairs, `LINKS_LIMIT` links count per member.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, assert_never

from grapevine_proto.errors import InvalidArgument, NoMatchingMember
from grapevine_proto.events import AnswerStatus, MemberInfo, MemberStatus
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.node import Node
from grapevine_tui.host.views import (
    NetworkView,
    ShowHolders,
    ShowMatrix,
    ShowRtt,
    ShowTopology,
)

Object: TypeAlias = dict[str, Any]

MATRIX_LIMIT: Final = 64
LINKS_LIMIT: Final = 200  # as many as `grapevine.links` names
ASK_TIMEOUT_S: Final = 5.0
MAX_RTT_MS: Final = 60_000.0


Resolve: TypeAlias = Callable[[str], PeerId]


async def network_view(node: Node, resolve: Resolve, view: NetworkView) -> Object:
    """Returns the JSON fields of a view of the network. `resolve` finds the member that a user names.

    Raises UnknownPeer, InvalidArgument, TooManyQueries.
    """
    match view:
        case ShowRtt(peer, other):
            return _rtt(node, resolve(peer), resolve(other) if other else node.peer_id)
        case ShowMatrix():
            return _matrix(node, await _ask_links(node))
        case ShowTopology(message):
            reply = _topology(node, await _ask_links(node))
            holders = await _ask_holders(node, _message_id(message)) if message else None
            return reply | {"message": message or None, "holders": holders}
        case ShowHolders(message):
            return _holders(node, _message_id(message), await _ask(node, "has", message.strip()))
        case _:
            assert_never(view)


def _message_id(text: str) -> MessageId:
    try:
        return MessageId.parse(text.strip())
    except ValueError as error:
        raise InvalidArgument(f"message: {error}") from None


# --- what members answer --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gathered:
    """The valid answers by member, and when they were asked."""

    answers: dict[PeerId, Any]
    as_of_unix: float

    def to_dict(self, members: int) -> Object:
        return {
            "as_of_unix": round(self.as_of_unix, 3),
            "members_asked": members,
            "members_answered": len(self.answers),
        }


async def _ask(node: Node, name: str, payload: str = "") -> Gathered:
    """Asks all members a built-in query whose answers are JSON."""
    as_of_unix = time.time()
    answers: dict[PeerId, Any] = {}
    try:
        query = await node.query(f"grapevine.{name}", payload.encode(), timeout=ASK_TIMEOUT_S)
    except NoMatchingMember:
        return Gathered(answers, as_of_unix)
    async for answer in query:
        if answer.status is AnswerStatus.ANSWERED:
            try:
                answers[answer.peer_id] = json.loads(answer.payload)
            except (ValueError, RecursionError):
                continue
    return Gathered(answers, as_of_unix)


class _Link:
    """One link as one end sees it."""

    __slots__ = ("is_stale", "lost", "peer_id", "rtt_ms")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Raises ValueError, TypeError, KeyError for what is no link."""
        self.peer_id = PeerId.parse(fields["peer_id"])
        rtt_ms = fields["rtt_ms"]
        if rtt_ms is not None and not 0 <= float(rtt_ms) <= MAX_RTT_MS:
            raise ValueError("not a round-trip time")
        self.rtt_ms = None if rtt_ms is None else float(rtt_ms)
        self.is_stale = fields["state"] == "stale"
        lost = fields["lost"]
        if type(lost) is not int or lost < 0:
            raise ValueError("not a count")
        self.lost = lost


async def _ask_links(node: Node) -> Gathered:
    gathered = await _ask(node, "links")
    links = {
        member: found
        for member, answer in gathered.answers.items()
        if (found := _parse_links(member, answer)) is not None
    }
    return Gathered(links, gathered.as_of_unix)


def _parse_links(member: PeerId, answer: Any) -> dict[PeerId, _Link] | None:
    """The links of one member by their other end; None if the answer makes no sense."""
    if not isinstance(answer, list):
        return None
    try:
        links = [_Link(each) for each in answer[:LINKS_LIMIT]]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return {each.peer_id: each for each in links if each.peer_id != member}


# --- members --------------------------------------------------------------------------------------


def _members(node: Node) -> list[MemberInfo]:
    """All members that have not left, and this node, by zone and name."""
    ours = MemberInfo(
        node.peer_id, node.address, node.config.zone, node.config.name, MemberStatus.UP, node.epoch
    )
    known = [each for each in node.members() if each.status is not MemberStatus.LEFT]
    return sorted([ours, *known], key=lambda each: (each.zone, each.name, each.peer_id))


def _member_fields(node: Node, member: MemberInfo) -> Object:
    is_denied = member.peer_id in node.config.denied
    return {
        "peer_id": str(member.peer_id),
        "name": member.name,
        "zone": member.zone,
        "state": "denied" if is_denied else member.status.value,
        "is_self": member.peer_id == node.peer_id,
    }


# --- views ----------------------------------------------------------------------------------------


def _rtt(node: Node, first: PeerId, second: PeerId) -> Object:
    estimate = node.rtt(first, second)
    unknown = {"rtt_ms": None, "rtt_error_ms": None, "rtt_source": None}
    fields = unknown if estimate is None else estimate.to_dict()
    names = {each.peer_id: each.name for each in _members(node)}
    return {
        "peer_id": str(first),
        "name": names.get(first, ""),
        "other_id": str(second),
        "other_name": names.get(second, ""),
        **fields,
    }


def _measured_ms(links: Mapping[PeerId, Any], first: PeerId, second: PeerId) -> float | None:
    """The mean of what both ends of a link measured, or what one of them did."""
    found = [
        link.rtt_ms
        for one, other in ((first, second), (second, first))
        if (link := links.get(one, {}).get(other)) is not None and link.rtt_ms is not None
    ]
    return math.fsum(found) / len(found) if found else None


def _matrix(node: Node, links: Gathered) -> Object:
    everyone = _members(node)
    shown = [each for each in everyone if each.status is not MemberStatus.DOWN][:MATRIX_LIMIT]
    pairs = []
    for row, first in enumerate(shown):
        for column in range(row):
            second = shown[column]
            measured_ms = _measured_ms(links.answers, first.peer_id, second.peer_id)
            if measured_ms is not None:
                fields: Object = {
                    "rtt_ms": round(measured_ms, 3),
                    "rtt_error_ms": None,
                    "rtt_source": "measured",
                }
            else:
                estimate = node.rtt(first.peer_id, second.peer_id)
                if estimate is None:
                    continue
                fields = estimate.to_dict()
            pairs.append({"a": row, "b": column, **fields})
    return {
        "members": [_member_fields(node, each) for each in shown],
        "pairs": pairs,
        "left_out": len(everyone) - len(shown),
        **links.to_dict(len(everyone)),
    }


def _topology(node: Node, links: Gathered) -> Object:
    everyone = _members(node)
    answers = links.answers
    ends: dict[tuple[PeerId, PeerId], None] = {}
    for one, named in answers.items():
        for other in named:
            ends[min(one, other), max(one, other)] = None
    found = []
    for first, second in sorted(ends):
        here = answers.get(first, {}).get(second)
        there = answers.get(second, {}).get(first)
        has_both_answers = first in answers and second in answers
        seen = "both" if here and there else "one-way" if has_both_answers else "half"
        measured_ms = _measured_ms(answers, first, second)
        found.append(
            {
                "a": str(first),
                "b": str(second),
                "rtt_ms": None if measured_ms is None else round(measured_ms, 3),
                "lost": (here.lost if here else 0) + (there.lost if there else 0),
                "is_stale": bool((here and here.is_stale) or (there and there.is_stale)),
                "seen": seen,
                "seen_by": str(first) if here else str(second),
            }
        )
    known = {each.peer_id for each in everyone}
    unknown = sorted({each for pair in ends for each in pair} - known)
    members = [
        _member_fields(node, each) | {"has_answered": each.peer_id in answers} for each in everyone
    ]
    members += [
        {
            "peer_id": str(each),
            "name": "",
            "zone": "",
            "state": "unknown",
            "is_self": False,
            "has_answered": False,
        }
        for each in unknown
    ]
    return {"members": members, "links": found, **links.to_dict(len(everyone))}


async def _ask_holders(node: Node, message_id: MessageId) -> list[Object]:
    gathered = await _ask(node, "has", str(message_id))
    holders: list[Object] = _holders(node, message_id, gathered)["members"]
    return holders


_HOLDER_TEXTS: Final = ("via", "from")
_HOLDER_NUMBERS: Final = ("hops", "age_ms")


def _parse_holder(answer: Any) -> Object | None:
    """What one member answers of a message; None if it makes no sense. Members of earlier versions say only
    whether they have it."""
    if not isinstance(answer, dict) or type(answer.get("cached")) is not bool:
        return None
    fields: Object = {"has": answer["cached"]}
    for name in _HOLDER_TEXTS:
        fields[name] = answer[name] if type(answer.get(name)) is str else None
    for name in _HOLDER_NUMBERS:
        value = answer.get(name)
        fields[name] = value if type(value) is int and 0 <= value < 1 << 32 else None
    return fields


def _holders(node: Node, message_id: MessageId, gathered: Gathered) -> Object:
    everyone = _members(node)
    rows = []
    for member in everyone:
        answer = gathered.answers.get(member.peer_id)
        holder = None if answer is None else _parse_holder(answer)
        empty: Object = {"has": None, **dict.fromkeys((*_HOLDER_TEXTS, *_HOLDER_NUMBERS))}
        rows.append(_member_fields(node, member) | (holder or empty))
    order = {False: 0, None: 1, True: 2}  # missing first
    rows.sort(key=lambda each: (order[each["has"]], each["hops"] or 0, each["age_ms"] or 0))
    counts = [each["has"] for each in rows]
    return {
        "id": str(message_id),
        "members": rows,
        "have_it": counts.count(True),
        "missing": counts.count(False),
        "no_answer": counts.count(None),
        **gathered.to_dict(len(everyone)),
    }
