"""Views of the network over real nodes, and what a malicious member can answer."""

from __future__ import annotations

from typing import Any

import pytest

from grapevine_proto import ClusterKey, Node, NodeConfig, PeerId
from grapevine_proto.errors import InvalidArgument
from grapevine_tui.host.network_views import LINKS_LIMIT, _parse_holder, _parse_links, network_view
from grapevine_tui.host.views import ShowHolders, ShowMatrix, ShowRtt, ShowTopology
from tests.conftest import Run

OTHER = "ab" * 32
LINK = {"peer_id": OTHER, "address": "x", "state": "connected", "rtt_ms": 1.5, "lost": 0}


def test_three_nodes_see_their_links_round_trips_and_messages(run: Run[None]) -> None:
    run(view_three_nodes())


async def view_three_nodes() -> None:
    config = NodeConfig.local(keys=ClusterKey.generate())
    async with Node(config.replace(name="one", zone="eu")) as one:
        joining = config.replace(bootstrap_peers=[one.address])
        async with (
            Node(joining.replace(name="two", zone="eu")) as two,
            Node(joining.replace(name="three", zone="us")) as three,
        ):
            for node in (one, two, three):
                await node.ready(2)

            async def view(wanted: Any) -> dict[str, Any]:
                return await network_view(one, PeerId.parse, wanted)

            topology = await view(ShowTopology())
            assert [each["name"] for each in topology["members"]] == ["one", "two", "three"]
            assert [each["seen"] for each in topology["links"]] == ["both"] * 3
            assert topology["members_answered"] == topology["members_asked"] == 3
            matrix = await view(ShowMatrix())
            assert {each["rtt_source"] for each in matrix["pairs"]} == {"measured"}
            assert len(matrix["pairs"]) == 3
            rtt = await view(ShowRtt(str(two.peer_id)))
            assert (rtt["name"], rtt["other_name"]) == ("two", "one")
            assert rtt["rtt_ms"] > 0
            sent = await one.broadcast(b"who has it")
            await one.flush()
            await two.synced()
            await three.synced()
            holders = await view(ShowHolders(str(sent)))
            assert (holders["have_it"], holders["missing"]) == (3, 0)
            tree = await view(ShowTopology(str(sent)))
            assert len(tree["holders"]) == 3
            later = str(sent).rpartition(":")[0] + ":99"
            assert (await view(ShowHolders(later)))["missing"] == 3
            with pytest.raises(InvalidArgument, match="message"):
                await view(ShowHolders("no id"))


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        "text",
        [1],
        [None],
        [LINK | {"peer_id": 7}],
        [LINK | {"peer_id": "short"}],
        [LINK | {"rtt_ms": "fast"}],
        [LINK | {"rtt_ms": -1}],
        [LINK | {"rtt_ms": float("nan")}],
        [LINK | {"rtt_ms": 1e9}],
        [LINK | {"lost": -1}],
        [LINK | {"lost": True}],
        [{"peer_id": OTHER}],
    ],
)
def test_links_that_make_no_sense_are_no_answer(answer: object) -> None:
    assert _parse_links(PeerId(bytes(32)), answer) is None


def test_links_of_a_member_are_limited_and_none_leads_to_itself() -> None:
    many = [LINK | {"peer_id": f"{number:064x}"} for number in range(LINKS_LIMIT + 50)]
    links = _parse_links(PeerId(bytes(32)), many)
    assert links is not None
    assert len(links) == LINKS_LIMIT - 1
    unmeasured = _parse_links(PeerId(bytes(32)), [LINK | {"rtt_ms": None}])
    assert unmeasured is not None
    assert unmeasured[PeerId.parse(OTHER)].rtt_ms is None


@pytest.mark.parametrize("answer", [None, [], {}, {"cached": 1}, {"cached": "yes"}])
def test_holders_that_make_no_sense_are_no_answer(answer: object) -> None:
    assert _parse_holder(answer) is None


def test_what_a_holder_says_is_checked_field_by_field() -> None:
    assert _parse_holder({"cached": True, "via": 1, "hops": -1, "age_ms": 2**40, "from": []}) == {
        "has": True,
        "via": None,
        "hops": None,
        "age_ms": None,
        "from": None,
    }
    good = {"via": "eager", "hops": 2, "age_ms": 7, "from": OTHER}
    assert _parse_holder({"cached": True, **good}) == {"has": True, **good}
