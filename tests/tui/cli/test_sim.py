"""`grapevine-tui sim`: the same arguments, the same words; figures that are those of the run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest

from grapevine_proto.sim import BroadcastReport
from grapevine_tui.cli import main
from grapevine_tui.cli.sim_report import COLUMN_TITLES, MAX_ROWS, format_result, plot_coverage
from grapevine_tui.cli.sim_run import SimOptions, SimResult, run_simulation

SMALL = ["sim", "--nodes", "20", "--messages", "3", "--seed", "7"]


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main.run([*SMALL, *arguments]) == 0
    return capsys.readouterr().out


def test_the_same_arguments_print_the_same_to_the_byte(capsys: pytest.CaptureFixture[str]) -> None:
    first = output_of(capsys)
    assert output_of(capsys) == first
    assert output_of(capsys, "--seed", "8") != first


def test_a_run_does_not_depend_on_the_process() -> None:
    command = [sys.executable, "-m", "grapevine_tui", *SMALL, "--loss", "0.1", "--churn", "60"]
    outputs = {subprocess.run(command, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(outputs) == 1


def test_the_table_has_a_row_a_message_and_one_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = output_of(capsys).splitlines()
    assert [name for name in COLUMN_TITLES if name in head] == list(COLUMN_TITLES)
    assert [row.split()[0] for row in rows[:4]] == ["1", "2", "3", "all"]
    assert all("100.00 %" in row for row in rows[:4])


def test_the_object_has_every_promised_field(capsys: pytest.CaptureFixture[str]) -> None:
    result = json.loads(output_of(capsys, "--strategy", "epidemic", "--json"))
    assert result["nodes"] == 20
    assert result["seed"] == 7
    assert result["coverage"] == 1.0
    assert result["missed"] == result["duplicates"] == 0
    assert (
        0
        < result["latency_ms"]["p50"]
        <= result["latency_ms"]["p99"]
        <= result["latency_ms"]["last"]
    )
    assert result["hops_last"] >= 1
    assert result["redundancy"] > 0
    assert result["datagrams_per_broadcast"] >= 19
    assert result["events_per_second"] > 0


def test_the_object_repeats_but_for_the_speed(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (json.loads(output_of(capsys, "--json", "--jitter")) for _ in range(2))
    assert {**first, "events_per_second": 0} == {**second, "events_per_second": 0}


def test_without_repair_pushing_alone_leaves_nodes_out() -> None:
    plan = SimOptions(nodes=60, messages=5, strategy="epidemic", anti_entropy=False, wait=2.0)
    assert run_simulation(replace(plan, lazy_push=False)).missed > 0
    assert run_simulation(plan).missed == 0


def test_zones_add_latency_and_bytes_between_zones_are_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    near = json.loads(output_of(capsys, "--json", "--latency", "1..1"))
    zones = ("--zones", "3", "--latency", "1", "--latency-between", "80..80")
    far = json.loads(output_of(capsys, "--json", *zones))
    assert near["between_zones"] == 0
    assert 0 < far["between_zones"] < 1
    assert far["latency_ms"]["last"] > near["latency_ms"]["last"] + 79
    assert "went from zone to zone" in output_of(capsys, *zones)


def test_with_all_senders_every_node_broadcasts_once_a_round() -> None:
    outcome = run_simulation(SimOptions(nodes=8, messages=20, senders="all"))
    assert len(outcome.reports) == 20
    assert outcome.coverage == 1.0


def test_a_warm_up_is_not_counted() -> None:
    warm = run_simulation(SimOptions(nodes=10, messages=2, warmup=3, senders="one"))
    assert len(warm.reports) == 2
    assert warm.virtual_s > 5


def test_a_node_that_stays_through_churn_receives_everything() -> None:
    outcome = run_simulation(SimOptions(nodes=30, messages=10, churn=30.0, degree=6))
    assert outcome.coverage == 1.0
    assert any(report.expected < 29 for report in outcome.reports)


def test_unlinked_nodes_join_before_the_first_broadcast() -> None:
    assert run_simulation(SimOptions(nodes=12, messages=2, join=True)).coverage == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        ["--nodes", "1"],
        ["--nodes", "many"],
        ["--messages", "0"],
        ["--latency", "50..10"],
        ["--latency", "quick"],
        ["--latency", "nan..nan"],
        ["--loss", "1.5"],
        ["--strategy", "shouting"],
        ["--senders", "two"],
        ["--size", "0"],
        ["--churn", "-1"],
        ["--wrong"],
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["sim", *wrong]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert wrong[0] in err


def test_it_imports_no_textual() -> None:
    program = (
        "import sys; from grapevine_tui.cli import main; main.run(['sim', '--nodes', '3', '--json']);"
        "assert 'textual' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def outcome(latencies_s: list[float], messages: int = 1) -> SimResult:
    report = BroadcastReport(0.5, 0.1, 0.2, math.nan, 3, 0.5, 10, 1000, 4, 2, 0)
    return SimResult(
        nodes=5, seed=1, reports=[report] * messages, latencies_s=latencies_s, datagrams=10,
        bytes=1000, bytes_between_zones=0, redundant_copies=1, zones=1, steps=1, virtual_s=1.0,
    )  # fmt: skip


def test_a_run_that_reached_no_node_is_reported_too() -> None:
    assert outcome([]).to_json()["latency_ms"] == dict.fromkeys(("p50", "p99", "last", "last_mean"))
    assert plot_coverage([], 4) == ["no node was reached"]
    assert "-" in format_result(outcome([]), plot=True)[1]


def test_coverage_is_never_rounded_up_to_all_nodes() -> None:
    almost = BroadcastReport(0.99999, 0.1, 0.2, 0.3, 3, 0.5, 10, 1000, 100_000, 1, 0)
    result = outcome([0.1])
    result.reports = [almost]
    assert "99.99 %" in format_result(result, plot=False)[1]


def test_of_very_many_messages_only_the_first_have_rows() -> None:
    lines = format_result(outcome([0.1], messages=MAX_ROWS + 2), plot=False)
    assert lines[MAX_ROWS + 1] == "… and 2 more messages"
    assert lines[MAX_ROWS + 2].split()[0] == "all"


def test_the_plot_rises_from_no_node_to_all_nodes() -> None:
    lines = plot_coverage([each / 100 for each in range(1, 101)], 100)
    assert lines[0].startswith(" 100 %")
    assert lines[0].endswith("▇")  # the axis ends at the 99th of them
    assert len(lines[0]) - len(lines[0].rstrip("█▇▆▅▄▃▂▁")) < len(lines[9]) / 3
    assert lines[-1].endswith(" ms")
