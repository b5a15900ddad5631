"""Messages of several contexts, merged by time, filtered and counted."""

from __future__ import annotations

from grapevine_tui.app.widgets.merged_messages import MergedMessages
from grapevine_tui.app.widgets.message_filter import TESTS_PER_SYNC
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
