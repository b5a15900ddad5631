"""Messages of several contexts, merged by time, filtered and counted."""

from __future__ import annotations

from grapevine_tui.app.widgets.merged_messages import MergedMessages
from grapevine_tui.app.widgets.message_filter import MAX_SYNC_S, TESTS_PER_SYNC
from grapevine_tui.host.query import parse_query
from grapevine_tui.remote.fleet import Fleet
from tests.tui.made_up_fleet import a_fleet
from tests.tui.values import a_message

NOW = 1_800_000_000.0


def listed(merged: MergedMessages) -> list[tuple[str, str]]:
    """(context, the first two words) of each message."""
    merged.sync()
    return [
        (each.node.context.name, each.entry.message.payload.decode().rpartition(" ")[2])
        for each in merged.newest_first()
    ]


def merged_of(fleet: Fleet, limit: int = 100) -> MergedMessages:
    return MergedMessages(fleet.nodes.values(), limit)


def test_messages_are_merged_by_time_and_at_most_so_many_are_listed() -> None:
    merged = merged_of(a_fleet(NOW))
    assert [name for name, _ in listed(merged)] == ["eu", "billing", "us", "dr", "eu"]
    assert (merged.count, merged.match_count) == (5, 5)
    merged = merged_of(a_fleet(NOW), limit=2)
    assert [name for name, _ in listed(merged)] == ["eu", "billing"]
    assert merged.match_count == 5


def test_a_filter_is_that_of_the_log_with_the_context_and_the_cluster() -> None:
    fleet = a_fleet(NOW)
    merged = merged_of(fleet)
    for text, names in (
        ("deploy of", ["eu", "dr", "eu"]),
        ("context:eu", ["eu", "eu"]),
        ("cluster:prod -context:eu", ["us", "dr"]),
        ("from:node-3", ["dr", "eu"]),
        ("from:billing-1", ["billing"]),
        ("topic:deploy.> context:dr|us", ["us", "dr"]),
        ("context:nowhere", []),
        ("", ["eu", "billing", "us", "dr", "eu"]),
    ):
        merged.set_filter(parse_query(text))
        assert [name for name, _ in listed(merged)] == names, text
        assert merged.match_count == len(names)
    merged.set_filter(parse_query("ends"))
    assert listed(merged) == [("eu", "ends")]
    fleet.nodes["us"].model.messages.append(a_message(1, 2_000, b"it ends"), NOW)
    assert listed(merged) == [("us", "ends"), ("eu", "ends")]


def test_a_filter_over_many_messages_takes_several_calls() -> None:
    fleet = a_fleet(NOW)
    for number in range(TESTS_PER_SYNC // 1_000 + 2):
        node = list(fleet.nodes.values())[number]
        for sequence in range(1_000):
            node.model.messages.append(a_message(1, 3_000 + sequence, b"zebra"), NOW)
    merged = merged_of(fleet)
    merged.set_filter(parse_query("zebra"))
    calls = 0
    while merged.is_behind:
        merged.sync()
        calls += 1
    assert calls > 1
    assert merged.match_count == 1_000 * (TESTS_PER_SYNC // 1_000 + 2)


def test_a_slow_filter_stops_after_a_context_and_goes_on_with_the_next() -> None:
    fleet = a_fleet(NOW)
    readings = iter(range(1_000))
    merged = MergedMessages(fleet.nodes.values(), 100, lambda: next(readings) * 2 * MAX_SYNC_S)
    merged.set_filter(parse_query("deploy"))
    counts = []
    for _ in fleet.nodes:
        merged.sync()
        counts.append(merged.match_count)
    assert counts[0] < counts[-1]
    assert not merged.is_behind


def test_a_context_whose_cluster_becomes_known_is_filtered_again() -> None:
    fleet = a_fleet(NOW)
    node = fleet.nodes["us"]
    known, node.model.local_node = node.model.local_node, None
    merged = merged_of(fleet)
    merged.set_filter(parse_query("cluster:prod -context:eu"))
    assert [name for name, _ in listed(merged)] == ["dr"]
    node.model.local_node = known
    assert [name for name, _ in listed(merged)] == ["us", "dr"]
