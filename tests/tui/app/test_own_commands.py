"""Commands of the operator: run on the selected row, shown as they write, killed in time."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from grapevine_proto.errors import InvalidArgument
from grapevine_tui.app import own_command_run
from grapevine_tui.app.own_command_run import GOOD_OUTCOME, OwnCommandRun
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.screens.output import OutputScreen
from grapevine_tui.config.own_commands import OwnCommand
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.runs import WAIT_S
from tests.tui.stage import Stage, staged
from tests.tui.values import a_member, a_peer, received

pytestmark = pytest.mark.asyncio

READ_ROW = "import json, sys; row = json.load(sys.stdin); print(row['row'], row.get('name'))"
ECHO = OwnCommand("echo", ("echo", "it is", "{name}"), "alt+e", "Say its name")
ROW = OwnCommand("row", (sys.executable, "-c", READ_ROW), "f7")


def python(code: str, *arguments: str, timeout_s: int = 30) -> OwnCommand:
    return OwnCommand("x", (sys.executable, "-c", code, *arguments), timeout_s=timeout_s)


async def finished(command: OwnCommand, row: dict[str, Any] | None = None) -> OwnCommandRun:
    run = OwnCommandRun(command, row or {})
    await run.run()
    return run


async def test_what_it_writes_is_printable_and_its_exit_status_is_shown() -> None:
    code = "import sys; print('\\x1b]0;evil\\x07 two'); sys.stderr.write('bad\\n'); sys.exit(3)"
    run = await finished(python(code))
    assert sorted(run.lines()) == ["bad", "␛]0;evil␇ two"]
    assert run.outcome == "exit status 3"
    assert (await finished(python("pass"))).outcome == GOOD_OUTCOME
    assert (await finished(OwnCommand("x", ("no-such-program",)))).outcome == (
        "not run: no-such-program: No such file or directory"
    )


async def test_the_program_learns_that_the_app_is_read_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = python("import os; print(os.environ.get('GRAPEVINE_READ_ONLY'))")
    assert (await finished(command)).lines() == ["None"]
    run = OwnCommandRun(command, {}, is_readonly=True)
    await run.run()
    assert run.lines() == ["1"]
    host = FakeHost()
    monkeypatch.setattr(FakeHost, "is_readonly", True)
    shows = python("import os; print('told', os.environ['GRAPEVINE_READ_ONLY'])")
    async with staged(host, settings=FakeSettings(own_commands=(shows,))) as stage:
        stage.app.run_own_command("x")
        await until_shown(stage, "told 1")


async def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[1])"
    name = f"$(touch {tmp_path}/here); `touch {tmp_path}/here`"
    run = await finished(python(code, "{name}"), {"name": name})
    assert run.lines() == [name]
    assert os.listdir(tmp_path) == []


async def test_a_program_that_others_can_change_is_not_run(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho hi\n")
    program.chmod(0o777)
    run = await finished(OwnCommand("x", (str(program),)))
    assert run.outcome.startswith(f"not run: {program}: ")
    assert run.lines() == []


async def test_after_its_time_it_is_killed_with_its_children() -> None:
    code = "import os, time; print(os.fork(), flush=True); time.sleep(60)"
    run = await finished(python(code, timeout_s=1))
    assert run.outcome == "killed after 1 s"
    child = max(int(each) for each in run.lines())
    give_up_at = time.monotonic() + WAIT_S
    while _is_alive(child):
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


async def test_output_beyond_the_limit_is_counted_and_the_program_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_command_run, "MAX_OUTPUT_BYTES", 100)
    run = await finished(python("print('x' * 1_000_000)"))
    assert run.outcome == GOOD_OUTCOME
    assert run.lines() == ["x" * 100, "… 999,901 bytes more"]


async def test_a_program_that_is_stopped_before_it_began_ends_at_once() -> None:
    run = OwnCommandRun(python("import time; time.sleep(60)"), {})
    run.stop()
    await run.run()
    assert run.outcome == "stopped"


async def test_a_row_without_the_field_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="echo: this row has no name"):
        OwnCommandRun(ECHO, {})


def a_host() -> FakeHost:
    host = FakeHost()
    host.peers = [a_peer(1, "bob")]
    host.members = [a_member(1, "bob"), a_member(2, "eve")]
    return host


async def until_shown(stage: Stage, text: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while text not in stage.text:
            await stage.pilot.pause(0.02)
            if isinstance(stage.app.screen, OutputScreen):
                stage.app.screen.show()


@pytest.fixture
def settings() -> FakeSettings:
    return FakeSettings(own_commands=(ECHO, ROW))


async def test_a_key_runs_it_on_the_selected_row(settings: FakeSettings) -> None:
    host = a_host()
    async with staged(host, settings=settings) as stage:
        host.happen(received(1, 1, b"hello"))
        await stage.press("1", "alt+e")
        await until_shown(stage, "it is bob")
        await until_shown(stage, GOOD_OUTCOME)
        assert host.model.commands[-1].text == "run echo 'it is' bob"
        await stage.press("escape", "m", "G", "f7")
        await until_shown(stage, "node eve")
        await stage.press("escape", "enter", "alt+e")
        await until_shown(stage, "it is eve")
        await stage.press("escape", "escape", "escape", "2", "G", "f7")
        await until_shown(stage, "message None")
        await stage.press("escape", "enter", "f7")
        await until_shown(stage, "message None")


async def test_it_has_words_in_palette_help_and_compose_box(settings: FakeSettings) -> None:
    async with staged(a_host(), settings=settings) as stage:
        titles = [each.title for each in stage.app.get_system_commands(stage.app.screen)]
        assert "Say its name" in titles
        await stage.press("1")
        await stage.submit("/run echo")
        await until_shown(stage, "it is bob")
        await stage.press("escape")
        await stage.submit("/run ecoh")
        assert "no own command 'ecoh'; did you mean echo?" in stage.text
        await stage.press("escape", "2", "alt+e")  # no message is there
        assert "echo: this row has no name" in stage.text
        await stage.press("question_mark")
        await stage.press("G")
        screen = stage.app.screen
        assert isinstance(screen, DetailScreen)
        assert "Say its name (/run echo)" in [fact.value for fact in screen.sheet._facts]


async def test_leaving_the_output_kills_the_program(tmp_path: Path, settings: FakeSettings) -> None:
    code = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(60)"
    settings.own_commands = (python(code),)
    async with staged(a_host(), settings=settings) as stage:
        await stage.submit("/run x")
        await until_shown(stage, "running")
        screen = stage.app.screen
        assert isinstance(screen, OutputScreen)
        async with asyncio.timeout(WAIT_S):
            while not screen._run.lines():
                await stage.pilot.pause(0.02)
        pid = int(screen._run.lines()[0])
        await stage.press("y")
        assert stage.app.clipboard == f"{pid}"
        await stage.press("escape")
        async with asyncio.timeout(WAIT_S):
            while _is_alive(pid):
                await stage.pilot.pause(0.02)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
