"""What the pages name exists: files, links, commands, flags, settings, values. Code blocks run."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import grapevine_proto
from grapevine_proto import NodeConfig
from grapevine_proto.errors import DropReason
from grapevine_tui.cli.main import ROOT_COMMAND
from grapevine_tui.config.hook_spec import HOOK_EVENTS
from grapevine_tui.config.options import OPTIONS
from grapevine_tui.config.settings import load_settings
from grapevine_tui.control.commands import COMMANDS
from grapevine_tui.process_exit import EXIT_CODE_BY_ERROR
from tests.sources import ROOT, tree_of
from tests.tui.runs import Bench, environ_of

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
OTHER_PROGRAMS = {"--secret", "--from-file", "--now"}  # flags of podman, kubectl, systemctl


def page_of(name: str) -> str:
    """Returns the text of the page whose path ends in `name`."""
    return path_of(name).read_text()


def path_of(name: str) -> Path:
    (page,) = [page for page in PAGES if page.as_posix().endswith(f"/{name}")]
    return page


def blocks(text: str, *languages: str) -> list[str]:
    """Returns the fenced blocks in these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def prose(text: str) -> str:
    """Returns the text without fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def calls(text: str) -> Iterator[list[str]]:
    """Yields the arguments of each call of the program in shell blocks and code spans."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").replace("|\n", "| ").splitlines()
    # A code span that begins with the name of the program is a command.
    lines += re.findall(r"`(grapevine-tui [^`]+)`", prose(text))
    for line in lines:
        terms = shlex.split(line.replace("$(", " ( "), comments=True)
        while terms:
            term = terms.pop(0)
            if term.rpartition("/")[2] == "grapevine-tui":
                ends = [n for n, each in enumerate(terms) if each in ("|", "&&", ";", "<", ">")]
                yield terms[: ends[0]] if ends else terms


def parse(arguments: list[str]) -> None:
    """Parses `arguments` like the program, and runs nothing. Raises click.UsageError."""
    command: click.Command = ROOT_COMMAND
    context: click.Context | None = None
    name = "grapevine-tui"
    while True:
        with command.make_context(name, list(arguments), parent=context) as context:
            arguments = [*getattr(context, "_protected_args", ()), *context.args]
        if not isinstance(command, click.Group) or not arguments:
            return
        found, command_named, arguments = command.resolve_command(context, arguments)
        assert command_named is not None
        name, command = str(found), command_named


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_command_in_the_pages_is_one_that_the_program_understands(name: str) -> None:
    for arguments in calls(page_of(name)):
        try:
            parse(arguments)
        except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
            continue  # --version, --help, a group by its name alone
        except click.UsageError as error:
            raise AssertionError(f"{name}: grapevine-tui {arguments}: {error.message}") from None


def all_flags(command: click.Command) -> set[str]:
    own = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            own |= all_flags(found)
    return own | {"--help"}


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_in_the_pages_exists(name: str) -> None:
    if name.endswith(
        "coming-from.md"
    ):  # half of it is about other programs; its commands are checked above
        return
    named = set(re.findall(r"`(--[a-z][a-z-]+)", prose(page_of(name))))
    assert named <= all_flags(ROOT_COMMAND) | OTHER_PROGRAMS


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = path_of(name)
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page if not path else (page.parent / path).resolve()
        assert file.exists(), f"{name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            known = {re.sub(r"[^\w\s-]", "", each.lower()).replace(" ", "-") for each in heads}
            assert anchor in known, f"{name}: {target}"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_of_ours_that_is_named_exists(name: str) -> None:
    named = re.findall(
        r"`((?:tests|config|docs|examples|screenshots|grapevine_\w+)/[\w./-]+)`", page_of(name)
    )
    assert [each for each in named if not (ROOT / each).exists()] == []


def names_in_the_source() -> set[str]:
    """Returns every word of the sources, comments and strings included."""
    # a kernel setting, a kind that shares a class, and click's completion
    found = {"rmem_max", "RepairFragment", "_GRAPEVINE_TUI_COMPLETE"}
    found |= {"bash_source", "zsh_source", "fish_source"}
    for directory in ("grapevine_proto", "grapevine_tui", "tests", "examples", "config"):
        for path in (ROOT / directory).rglob("*"):
            if path.suffix in (".py", ".sh", ".toml", ".service", ".yaml"):
                found |= set(re.findall(r"[A-Za-z_]\w*", f"{path.stem} {path.read_text()}"))
    found |= {each.lower() for each in found if each.isupper()}  # as pages write enumeration values
    return found


def test_every_name_in_a_code_span_exists() -> None:
    """A name is a word with an underscore or an inner capital, so that shell commands are not checked."""
    source = names_in_the_source()
    for name in NAMES:
        if name.endswith("coming-from.md"):
            continue  # names of other programs
        spans = " ".join(re.findall(r"`([^`]+)`", prose(page_of(name))))
        terms = set(re.findall(r"[A-Za-z_]\w*", spans))
        names = {each for each in terms if "_" in each.strip("_") or re.search(r"[a-z][A-Z]", each)}
        metrics = {each for each in names if each.startswith("grapevine_")}  # checked elsewhere
        assert names - metrics - source == set(), name


def test_every_message_in_the_troubleshooting_page_is_one_that_the_program_prints() -> None:
    source = "".join(
        path.read_text()
        for package in ("grapevine_proto", "grapevine_tui")
        for path in sorted((ROOT / package).rglob("*.py"))
    )
    symptoms = re.findall(r"^\| ([^|]+) \|", page_of("troubleshooting.md"), re.MULTILINE)
    quoted = [each for symptom in symptoms for each in re.findall(r"`([^`]+ [^`]+)`", symptom)]
    assert len(quoted) > 4
    for message in quoted:
        for part in re.split(r"\.\.\.", message):
            assert part.strip() in source, message


@pytest.mark.parametrize("name", NAMES)
def test_every_piece_of_settings_in_the_pages_is_right(name: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page_of(name), "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        load_settings({"app.config": str(path)}, {"HOME": str(tmp_path)}, directory=tmp_path)


# --- tables are complete --------------------------------------------------------------------------


def section(page: str, head: str) -> str:
    text = page_of(page)
    begin = text.index(f"\n## {head}\n")
    end = text.find("\n## ", begin + 1)
    return text[begin : end if end > 0 else len(text)]


def code_terms(text: str) -> set[str]:
    """Returns the words of all code spans."""
    return {
        term
        for each in re.findall(r"`([^`]+)`", prose(text))
        for term in re.split(r"[^\w.-]+", each)
    }


def test_the_library_page_names_every_public_name_and_every_setting() -> None:
    terms = code_terms(page_of("library.md")) | set(
        re.findall(r"\w+", "".join(blocks(page_of("library.md"), "", "python")))
    )
    assert {name for name in grapevine_proto.__all__ if name not in terms} == set()
    settings = code_terms(section("library.md", "NodeConfig"))
    assert {each.name for each in dataclasses.fields(NodeConfig)} <= settings


@pytest.mark.parametrize("name", ["PeerInfo", "MemberInfo", "Round", "Message"])
def test_the_library_page_names_every_field(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| (.+) \|$", section("library.md", "Values"), re.MULTILINE)
    assert row is not None
    kind = getattr(grapevine_proto, name)
    fields = (
        [each.name for each in dataclasses.fields(kind)]
        if dataclasses.is_dataclass(kind)
        else kind._fields
    )
    derived = {"origin"} if name == "Message" else set()
    assert {*fields, *derived} <= code_terms(row[1])


def test_the_library_page_names_every_counter() -> None:
    named = code_terms(section("library.md", "Values"))
    assert set(grapevine_proto.Stats._fields) - named == set()


def test_the_library_page_names_every_reason_and_every_command_of_a_script() -> None:
    terms = code_terms(page_of("json-lines.md"))
    assert {each.value for each in DropReason} <= terms
    assert {name for each in COMMANDS for name in (each.name, *each.aliases)} <= terms


def test_the_pages_name_every_event_a_program_can_be_run_at_and_every_exit_code() -> None:
    assert f"`{' '.join(HOOK_EVENTS)}`" in page_of("hooks-and-scripts.md")
    codes = {
        int(code)
        for row in re.findall(r"^\| (\d+(?:, \d+)*) \|", page_of("cli.md"), re.MULTILINE)
        for code in row.split(", ")
    }
    assert {code for _, code in EXIT_CODE_BY_ERROR} | {0, 1} <= codes


def test_the_example_variables_and_the_manifest_are_ones_we_read() -> None:
    known = {each.env for each in OPTIONS} | {"POD_IP", "CREDENTIALS_DIRECTORY"}
    manifest = (ROOT / "config" / "kubernetes.yaml").read_text()
    assert set(re.findall(r"name: ([A-Z][A-Z_]+)\b", manifest)) <= known
    service = (ROOT / "config" / "grapevine.service").read_text()
    container = (ROOT / "config" / "Containerfile").read_text()
    named = re.findall(r"^Environment=([A-Z_]+)", service, re.MULTILINE)
    named += re.findall(r"\b((?:BIND|GRAPEVINE)_[A-Z_]+)=", container)
    assert set(named) <= known


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_in_the_pages_is_served(name: str) -> None:
    served = set(re.findall(r"^\| `(grapevine_[a-z_]+)` \|", page_of("metrics.md"), re.MULTILINE))
    named = set(re.findall(r"`(?:increase\()?(grapevine_[a-z_]+)(?![\w./])", page_of(name)))
    assert named - {"grapevine_proto", "grapevine_tui"} <= served


def test_every_example_is_named_in_the_library_page_and_the_readme() -> None:
    for path in (ROOT / "examples").iterdir():
        if path.suffix in (".py", ".sh"):
            assert f"examples/{path.name}" in page_of("README.md"), path.name
            assert f"examples/{path.name}" in page_of("library.md") + page_of("rotate-keys.md"), (
                path.name
            )


def test_dependencies_are_what_is_imported_and_nothing_else() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    named = {re.split(r"[>=;\s\[]", each)[0].lower() for each in project["dependencies"]}
    distribution = {
        "nacl": "pynacl",
        "dns": "dnspython",
        "dotenv": "python-dotenv",
        "re2": "google-re2",
    }
    imported: set[str] = set()
    for directory in ("grapevine_proto", "grapevine_tui"):
        for path in (ROOT / directory).rglob("*.py"):
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.Import):
                    imported |= {each.name.partition(".")[0] for each in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"grapevine_proto", "grapevine_tui"}
    expected = {distribution.get(each, each.replace("_", "-")) for each in foreign}
    extras = {
        re.split(r"[>=;\s\[]", each)[0].lower()
        for name, several in project["optional-dependencies"].items()
        for each in several
        if name not in ("test", "dev")
    }
    assert named <= expected, "installed and never used"
    compiler = {"mypy-extensions"}  # read by mypyc; there is a substitute where it is missing
    assert expected <= named | extras | compiler, "used and never installed"


# --- code blocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["README.md", "library.md"])
def test_every_whole_program_in_the_pages_runs(page: str, tmp_path: Path) -> None:
    for block in blocks(page_of(page), "python"):
        if "import" not in block or "..." in block:  # a fragment
            continue
        block = re.sub(r"nodes=\d+", "nodes=20", block)  # the same example, smaller
        done = subprocess.run(
            [sys.executable, "-c", block],
            env=environ_of(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), block
        assert done.stdout


def test_the_script_of_the_hooks_page_runs_beside_a_node(bench: Bench) -> None:
    run, address = bench.started("--name", "ams-1")
    (script,) = blocks(page_of("hooks-and-scripts.md"), "python")
    script = script.replace("127.0.0.1:8000", address)
    script = script.replace('"grapevine-tui"', '*[sys.executable, "-m", "grapevine_tui"]')
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + script],
        env=environ_of(bench.directory),
        cwd=bench.directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "" or "listening" in done.stderr
    assert done.stdout.startswith("['ams-1']\n")
    assert run.expect("message")["text"] == "hello from a script"


def test_the_command_that_sends_one_message_runs(bench: Bench) -> None:
    run, address = bench.started()
    for page in ("README.md", "hooks-and-scripts.md"):
        (line,) = [each for each in blocks(page_of(page), "sh") if '"deploy finished"' in each]
        line = line.replace("127.0.0.1:8000", address).replace(".venv/bin/", "")
        line = line.replace("grapevine-tui", f"{shlex.quote(sys.executable)} -m grapevine_tui")
        done = subprocess.run(
            ["sh", "-c", line],
            env=os.environ | environ_of(bench.directory),
            cwd=bench.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert run.expect("message")["text"] == "deploy finished"


def test_the_recipes_for_programs_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the key file
    printed: asyncio.Queue[str] = asyncio.Queue()
    recipes: Any = {name: getattr(grapevine_proto, name) for name in grapevine_proto.__all__}
    recipes |= {"asyncio": asyncio, "json": json}
    recipes["print"] = lambda *words: printed.put_nowait(" ".join(map(str, words)))
    for block in blocks(page_of("use-the-library.md"), "python"):
        exec(block, recipes)
    recipes_by_node = ("read", "handle", "join"), ("apply_in_order", "log")
    expected = {"joined;", "apply b'hello'", '"event": "member"', " b'hello'", "0 members answered"}

    async def main() -> None:
        config = recipes["config"].replace(bootstrap_peers=())
        async with grapevine_proto.Node(config) as first:
            joining = config.replace(bootstrap_peers=first.address, leave_timeout=60)
            inbox, stopped = first.messages(), asyncio.Event()
            assert await recipes["announce"](joining)
            assert (await anext(inbox)).payload == b"deployed"
            async with grapevine_proto.Node(joining) as second:
                recipes["stop_on_error"](second, stopped)
                second.on_message(lambda _: 1 / 0)
                running = [
                    asyncio.create_task(recipes[name](argument))
                    for names, argument in zip(recipes_by_node, (joining, second), strict=True)
                    for name in names
                ]
                await first.ready(4)
                await first.broadcast(b"hello")
                await recipes["work"](first)
                await stopped.wait()
                while expected:
                    line = await printed.get()
                    expected.difference_update({each for each in expected if each in line})
                for task in running:
                    task.cancel()
                await asyncio.wait(running)

    asyncio.run(asyncio.wait_for(main(), 60))
