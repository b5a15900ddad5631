"""What is read-only refuses every act that the registry has, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grapevine_tui.control.client import send_command
from grapevine_tui.control.commands import COMMANDS, CommandSpec, Kind, Surface, commands_on
from grapevine_tui.control.jsonlines import parse_request
from grapevine_tui.control.read_only import ReadOnly, is_act
from grapevine_tui.control.slash_parser import parse_command
from grapevine_tui.control.target import LocalTarget
from tests.tui.control.test_registry import json_line, slash_line

READING_FORMS = {"state": ("list", "get", "watch"), "tags": ("list",)}


@pytest.mark.parametrize("spec", COMMANDS, ids=lambda spec: spec.name)
def test_every_act_of_the_registry_is_an_act_and_every_query_none(spec: CommandSpec) -> None:
    commands = []
    if spec.is_on(Surface.SLASH):
        commands.append(parse_command(slash_line(spec, spec.name)))
    if spec.is_on(Surface.JSON):
        request = parse_request(json_line(spec, spec.name))
        assert request is not None
        commands.append(request.command)
    assert commands
    for each in commands:
        assert is_act(each) == (spec.kind is Kind.NODE_ACT), each


@pytest.mark.parametrize(
    ("name", "action"), [(name, each) for name, forms in READING_FORMS.items() for each in forms]
)
def test_an_act_that_can_also_read_may_read(name: str, action: str) -> None:
    key = {"key": "cfg/limit"} if name == "state" else {}
    request = parse_request(json.dumps({"cmd": name, "action": action, **key}).encode())
    assert request is not None
    assert not is_act(request.command)


@pytest.mark.parametrize(
    "spec",
    [each for each in commands_on(Surface.JSON) if each.kind is Kind.NODE_ACT],
    ids=lambda spec: spec.name,
)
def test_a_read_only_target_gets_no_act(spec: CommandSpec, tmp_path: Path) -> None:
    request = json.loads(json_line(spec, spec.name))
    with pytest.raises(ReadOnly, match=f"^{spec.name}: refused, this is read-only$"):
        send_command(LocalTarget(tmp_path, is_readonly=True), request)
