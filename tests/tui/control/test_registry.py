"""Every act has one name on every surface that its kind demands, and no surface has an act of its own.

The surfaces are asked themselves: click, the JSON parser, the palette and help of a running app.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

import click
import pytest

from grapevine_proto.node import Node
from grapevine_tui.app.screens.help import help_facts
from grapevine_tui.cli.ctl import ctl
from grapevine_tui.config import keymap
from grapevine_tui.control.commands import (
    COMMANDS,
    SURFACES,
    Argument,
    ArgumentType,
    Command,
    CommandError,
    CommandSpec,
    Kind,
    NodeAction,
    ScreenAction,
    Show,
    Surface,
    commands_on,
    find_command,
)
from grapevine_tui.control.requests import InvalidRequest, parse_request
from grapevine_tui.control.slash_parser import parse_command
from grapevine_tui.host.local import Host
from grapevine_tui.host.protocol import HostView
from grapevine_tui.remote.host import RemoteHost
from tests.tui.fake_host import FakeHost
from tests.tui.lively import fill
from tests.tui.stage import Stage, staged

OF_CTL_ITSELF = {"record", "stream"}  # what it does is no act of the node
SAMPLE_BY_TYPE = {
    ArgumentType.PEER: "bob",
    ArgumentType.ADDRESS: "127.0.0.1:8001",
    ArgumentType.TOPIC: "deploy.web",
    ArgumentType.PATTERN: "deploy.>",
    ArgumentType.NAME: "uptime",
    ArgumentType.KEY: "cfg/limit",
    ArgumentType.TAGS: "role=web",
    ArgumentType.PAYLOAD: "hello",
    ArgumentType.CHANGES: "fanout=5",
    ArgumentType.WORDS: "from:bob",
    ArgumentType.COMMAND: "send",
}


def names_on(surface: Surface) -> set[str]:
    return {each.name for each in commands_on(surface)}


def sample_of(argument: Argument) -> str:
    if argument.type is ArgumentType.CHOICE:
        return "set" if "set" in argument.choices else argument.choices[-1]
    return SAMPLE_BY_TYPE[argument.type]


def slash_line(spec: CommandSpec, name: str) -> str:
    return " ".join([f"/{name}", *map(sample_of, spec.arguments)])


def json_line(spec: CommandSpec, name: str) -> bytes:
    fields: dict[str, object] = {"cmd": name}
    for each in spec.arguments:
        sample = sample_of(each)
        is_mapping = each.type in (ArgumentType.CHANGES, ArgumentType.TAGS)
        fields[each.name] = dict([sample.split("=")]) if is_mapping else sample
    return json.dumps(fields).encode()


def known_words() -> set[str]:
    """Every word that is, or could be taken for, the name of a command."""
    names = {name for each in COMMANDS for name in (each.name, *each.aliases, *each.shorthands)}
    methods = {each for kind in (Node, Host, RemoteHost) for each in vars(kind)}
    return names | set(keymap.ACTION_NAMES) | {each.lstrip("_") for each in methods}


def palette_titles(stage: Stage) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, aliases) as each entry of the palette spells them."""
    for each in stage.app.get_system_commands(stage.app.screen):
        title, _, aliases = each.title.removesuffix(")").partition(" (")
        yield title, tuple(aliases.split(", ")) if aliases else ()


def test_no_two_commands_share_a_name() -> None:
    names = [n for each in COMMANDS for n in (each.name, *each.aliases, *each.shorthands)]
    assert len(names) == len(set(names))


def test_every_kind_has_surfaces_and_every_command_has_help_of_one_line() -> None:
    assert SURFACES.keys() == set(Kind)
    for spec in COMMANDS:
        assert spec.help
        assert "\n" not in spec.help
        assert not spec.help.endswith(".")


@pytest.mark.parametrize("spec", COMMANDS, ids=lambda spec: spec.name)
def test_a_command_parses_to_one_value_by_every_name_on_every_surface(spec: CommandSpec) -> None:
    parsed: list[Command] = []
    if spec.is_on(Surface.SLASH):
        for name in (spec.name, *spec.aliases, *spec.shorthands):
            parsed.append(parse_command(slash_line(spec, name)))
    else:
        with pytest.raises(CommandError):
            parse_command(slash_line(spec, spec.name))
    if spec.is_on(Surface.JSON):
        for name in (spec.name, *spec.aliases):
            request = parse_request(json_line(spec, name))
            assert request is not None
            parsed.append(request.command)
    else:
        with pytest.raises(InvalidRequest, match="unknown command"):
            parse_request(json_line(spec, spec.name))
    assert len({repr(each) for each in parsed}) == 1  # commands of two types can be equal


def test_slash_commands_and_json_know_no_command_that_the_registry_lacks() -> None:
    slash = {n for each in commands_on(Surface.SLASH) for n in (each.name, *each.aliases)}
    slash |= {n for each in COMMANDS for n in each.shorthands}
    objects = {n for each in commands_on(Surface.JSON) for n in (each.name, *each.aliases)}
    for word in known_words():
        is_slash = True
        try:
            find_command(word)
        except CommandError:
            is_slash = False
        assert is_slash == (word in slash), word
        problem = ""
        with suppress(AssertionError):
            try:
                parse_request(json.dumps({"cmd": word}).encode())
            except InvalidRequest as error:
                problem = str(error)
        assert ("unknown command" not in problem) == (word in objects), word


def test_ctl_has_a_subcommand_for_each_act_of_a_node_and_no_other() -> None:
    context = click.Context(ctl, info_name="ctl")
    assert set(ctl.list_commands(context)) == names_on(Surface.CTL) | OF_CTL_ITSELF
    for spec in commands_on(Surface.CTL):
        command = ctl.get_command(context, spec.name)
        assert command is not None
        assert command.get_short_help_str(100) == f"{spec.help}."
        arguments = [each for each in command.params if isinstance(each, click.Argument)]
        assert [each.name for each in arguments] == [each.name for each in spec.arguments]
        for alias in (*spec.aliases, spec.name.replace("_", "-")):
            assert ctl.get_command(context, alias) is command
    for name in names_on(Surface.SLASH) - names_on(Surface.CTL):
        assert ctl.get_command(context, name) is None


@pytest.mark.asyncio
async def test_the_palette_has_an_entry_for_each_command_and_beside_them_only_keys_of_the_view() -> (
    None
):
    titles = {each.title: each for each in commands_on(Surface.PALETTE)}
    view_labels = {
        key.description
        for group in keymap.SIMULTANEOUS_KEYS
        for part in group
        for key in part
        if key.name in keymap.VIEW_KEYS
    }
    host = FakeHost()
    fill(host, seconds=3)
    async with staged(host) as stage:
        for keys in (("escape", "1"), ("escape", "2"), ("m",)):
            await stage.press(*keys)
            entries = list(palette_titles(stage))
            acts = [each for each in entries if each[0] in titles]
            assert sorted(title for title, _ in acts) == sorted(titles)
            for title, aliases in acts:
                assert aliases == titles[title].aliases
            assert {title for title, _ in entries} - titles.keys() <= view_labels


@pytest.mark.asyncio
async def test_the_help_screen_lists_each_command_and_no_other() -> None:
    async with staged() as stage:
        facts = help_facts(stage.app, {})
        usages = [each.name for each in facts if each.name[:1] == "/" and each.name[:2] != "//"]
        usages = [each for each in usages if each != "/"]  # the key of the filter
        assert usages == [each.usage for each in commands_on(Surface.HELP)]


def test_an_act_on_the_node_is_a_method_of_the_node_or_its_hosts() -> None:
    for spec in COMMANDS:
        if spec.kind not in (Kind.NODE_ACT, Kind.QUERY):
            assert spec.method is None
            continue
        method = spec.name if spec.method is None else spec.method
        if method:
            assert hasattr(Node, method) or hasattr(Host, method), spec.name
        if spec.kind is Kind.NODE_ACT:
            assert method
            for host in (Host, HostView, RemoteHost):
                assert hasattr(host, method), (spec.name, host)


def test_every_command_without_arguments_is_one_of_its_name() -> None:
    for command in (*ScreenAction, *Show, *NodeAction):
        assert parse_command(f"/{command.value}") is command


def test_a_key_is_named_after_its_command_or_only_moves_the_view() -> None:
    names = set(keymap.ACTION_NAMES)
    assert names >= keymap.VIEW_KEYS
    for name in names - keymap.VIEW_KEYS:
        spec = find_command(name)
        assert name in (spec.name, *spec.aliases)
    assert not keymap.VIEW_KEYS & {n for each in COMMANDS for n in (each.name, *each.aliases)}
