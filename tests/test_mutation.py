"""The tables that mutation testing reads agree with the modules."""

from __future__ import annotations

import pytest

from tests.mutation.own_tests import BESIDE, modules, own_tests
from tests.sources import ROOT


def test_every_module_of_the_core_has_tests_of_its_own() -> None:
    assert [module for module in modules() if not own_tests(module)] == []


def test_the_tests_of_a_module_run_once_each_in_the_order_of_the_table() -> None:
    for module in modules():
        paths = own_tests(module)
        assert len(paths) == len(set(paths))
    events, whole = own_tests("overlay/swim/detector")
    assert (events[-23:], whole[-16:]) == ("test_detector_events.py", "test_detector.py")


def test_every_module_and_test_file_of_the_table_exists() -> None:
    assert BESIDE.keys() <= set(modules())
    names = {name for beside in BESIDE.values() for name in beside}
    assert [name for name in names if not (ROOT / f"tests/proto/{name}.py").exists()] == []


def test_a_mutant_has_one_changed_line_and_annotations_are_left_alone() -> None:
    pytest.importorskip("cosmic_ray")
    from tests.mutation.mutants import mutants_of

    mutants = mutants_of("transport/link/sent_packets")
    assert mutants
    assert all("-> SentPacket" not in mutant.line for mutant in mutants)
    text, line = mutants[0].mutated()
    assert line in text
    assert line != mutants[0].line


def test_unions_of_types_are_left_alone_in_parentheses_too() -> None:
    pytest.importorskip("cosmic_ray")
    from tests.mutation.mutants import mutants_of

    modules = ("wire/messages", "wire/packets")  # `GossipMessage` and `Packet`
    operators = {mutant.operator for module in modules for mutant in mutants_of(module)}
    assert "ReplaceBinaryOperator_BitOr_BitAnd" not in operators


def test_every_accepted_mutant_changes_a_line_that_still_exists() -> None:
    pytest.importorskip("cosmic_ray")
    from tests.mutation.mutants import accepted, path_of

    for module, line, mutant in accepted():
        lines = path_of(module).read_text(encoding="utf-8").splitlines()
        assert line in [each.strip() for each in lines], f"{module}: {line}"
        assert line != mutant
