"""`grapevine-tui sim --seeds --sweep --jobs`: one table, whoever runs it."""

from __future__ import annotations

import json
import math
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import Any

import click
import pytest

from grapevine_tui.cli import main, sim_sweep
from grapevine_tui.cli.sim import sim
from grapevine_tui.cli.sim_run import SimOptions, run_simulation
from grapevine_tui.cli.sim_sweep import MAX_ROWS, MAX_RUNS, Case, Row, Sweep, list_cases, list_rows

SMALL = ("sim", "--nodes", "12", "--messages", "2")


def output_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main.run([*SMALL, *arguments]) == 0
    return capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main.run([*SMALL, *arguments]) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    return captured.err


def test_a_run_of_a_sweep_is_the_run_of_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    swept = json.loads(output_of(capsys, "--sweep", "loss=0,0.1", "--seeds", "3..4", "--json"))
    alone = json.loads(output_of(capsys, "--loss", "0.1", "--seed", "4", "--json"))
    del alone["events_per_second"]
    assert [run.pop("sweep") for run in swept["runs"]] == [
        {"loss": "0"}, {"loss": "0"}, {"loss": "0.1"}, {"loss": "0.1"},
    ]  # fmt: skip
    assert [run["seed"] for run in swept["runs"]] == [3, 4, 3, 4]
    assert swept["runs"][3] == alone


def test_the_table_does_not_depend_on_the_number_of_jobs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--sweep", "fanout=2..3", "--sweep", "strategy=epidemic,flood", "--seeds", "1..2")
    one = output_of(capsys, *arguments, "--jobs", "1")
    assert output_of(capsys, *arguments, "--jobs", "3") == one
    head, *rows = one.splitlines()
    assert head.split()[:3] == ["fanout", "strategy", "coverage"]
    assert [row.split()[:2] for row in rows[:4]] == [
        ["2", "epidemic"], ["2", "flood"], ["3", "epidemic"], ["3", "flood"],
    ]  # fmt: skip


def test_a_dask_cluster_prints_the_same_table(capsys: pytest.CaptureFixture[str]) -> None:
    distributed = pytest.importorskip("distributed")
    arguments = ("--sweep", "fanout=2..3", "--strategy", "epidemic", "--seeds", "1..2")
    local = output_of(capsys, *arguments)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as it:
        assert output_of(capsys, *arguments, "--jobs", it.scheduler_address) == local


def test_seeds_alone_have_a_row_each_and_one_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    rows = output_of(capsys, "--seeds", "5,9").splitlines()
    assert [row.split()[0] for row in rows[:4]] == ["seed", "5", "9", "all"]


def test_a_flag_is_swept_with_yes_and_no(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--sweep", "lazy-push=yes,no", "--strategy", "epidemic", "--json")
    lazy, eager = json.loads(output_of(capsys, *arguments))["runs"]
    assert (lazy["sweep"], eager["sweep"]) == ({"lazy-push": "yes"}, {"lazy-push": "no"})
    assert lazy["datagrams_per_broadcast"] != eager["datagrams_per_broadcast"]


def test_every_option_of_a_run_can_be_swept(capsys: pytest.CaptureFixture[str]) -> None:
    fields = set(SimOptions.__dataclass_fields__) - {"seed"}
    swept = {each.name for each in sim.params} - {"seed", "seeds", "sweeps", "jobs", "as_json"}
    assert swept == fields
    latencies = json.loads(output_of(capsys, "--sweep", "latency=1..1,90..90", "--json"))["runs"]
    assert latencies[1]["latency_ms"]["p50"] >= 90 > latencies[0]["latency_ms"]["p50"]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (["--sweep", "fanuot=2"], "did you mean fanout?"),
        (["--sweep", "fanout"], "not NAME=VALUES"),
        (["--sweep", "fanout="], "not NAME=VALUES"),
        (["--sweep", "fanout=2..99"], "65 is not in the range"),
        (["--sweep", "fanout=3..2"], "not a range"),
        (["--sweep", "fanout=2,2"], "a value twice"),
        (["--sweep", "fanout=2", "--sweep", "fanout=3"], "swept twice"),
        (["--sweep", "loss=0..1"], "list the values"),
        (["--sweep", "latency=9..1"], "not a range within"),
        (["--sweep", "strategy=loud"], "is not one of"),
        (["--sweep", "lazy-push=maybe"], "neither yes nor no"),
        (["--sweep", "seed=1..2"], "no option 'seed' to sweep"),
        (["--sweep", "nodes=5", "--nodes", "6"], "both given and swept"),
        (["--seeds", "x"], "not a range of seeds"),
        (["--seeds", "-1"], "not a range of seeds"),
        (["--seeds", "1,1"], "a seed twice"),
        (["--seeds", f"1..{MAX_RUNS + 1}"], "more than 10,000 values"),
        (["--seeds", "1..9999", "--sweep", "fanout=2..3"], "19,998 runs are more than 10,000"),
        (["--seeds", "1..2", "--seed", "3"], "exclude each other"),
        (["--jobs", "2"], "needs --seeds or --sweep"),
        (["--jobs", "0", "--seeds", "1..2"], "neither a number of processes"),
        (["--jobs", "513", "--seeds", "1..2"], "neither a number of processes"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line(
    capsys: pytest.CaptureFixture[str], wrong: list[str], expected: str
) -> None:
    assert expected in error_of(capsys, *wrong)


def test_without_a_scheduler_the_address_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed")
    address = "tcp://127.0.0.1:1"
    assert f"no Dask scheduler at {address}" in error_of(
        capsys, "--jobs", address, "--seeds", "1..2"
    )


def test_without_dask_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    error = error_of(capsys, "--jobs", "tcp://127.0.0.1:8786", "--seeds", "1..2")
    assert "grapevine-tui[cluster]" in error


def test_a_combination_that_no_node_accepts_is_refused_before_any_run() -> None:
    wrong = Sweep("degree", "degree", (5, 100_000), ("5", "100000"))
    with pytest.raises(Exception, match="max_peers"):
        list_cases(SimOptions(), [wrong], [1])


def test_a_worker_that_ends_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ProcessPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise BrokenExecutor

    monkeypatch.setattr(sim_sweep, "ProcessPoolExecutor", Broken)
    with pytest.raises(click.ClickException, match="a worker process was ended"):
        sim_sweep.run_cases([Case(SimOptions(), ())], 1, lambda _: None)


def figures(last: float | None) -> dict[str, Any]:
    return {**run_simulation(SimOptions(nodes=2, messages=1)).to_json(),
            "latency_ms": {"p50": last, "p99": last, "last": last}}  # fmt: skip


def test_a_row_has_means_the_latest_delivery_and_sums() -> None:
    row = Row(("all",), (figures(10.0), figures(30.0), figures(None)))
    assert row.latency_ms("p99") == 20.0
    assert row.last_ms == 30.0
    assert math.isnan(Row((), (figures(None),)).last_ms)


def test_a_long_table_says_how_much_it_leaves_out() -> None:
    run = figures(5.0)
    cases = [Case(SimOptions(seed=seed), ()) for seed in range(MAX_ROWS + 1)]
    rows = list_rows(cases, [{**run, "seed": case.options.seed} for case in cases])
    lines = sim_sweep.format_sweep([], range(MAX_ROWS + 1), rows, plot=True)
    table = lines[: lines.index("")]
    assert len(table) == 1 + MAX_ROWS + 1
    assert "and 2 more rows" in table[-2]
    assert table[-1].split()[0] == "all"
