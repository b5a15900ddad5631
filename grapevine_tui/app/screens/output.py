"""The output of a command of ``[app.commands]``, as it comes.

Invariants: every line is printable; closing the screen stops the program.
"""

from __future__ import annotations

import shlex

from grapevine_tui.app.own_command_run import GOOD_OUTCOME, OwnCommandRun
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.format import format_duration
from grapevine_tui.text import printable


class OutputScreen(DetailScreen):
    """Runs one command and shows its output; `y` copies that."""

    def __init__(self, run: OwnCommandRun) -> None:
        super().__init__(run.command.name, self._current_facts, kind="output")
        self._run = run

    def on_mount(self) -> None:
        self.run_worker(self._run_to_its_end(), exit_on_error=True)

    async def _run_to_its_end(self) -> None:
        await self._run.run()
        if self.is_mounted:
            self.show()

    def on_unmount(self) -> None:
        self._run.stop()

    def _current_facts(self) -> list[Fact]:
        run = self._run
        tone = "dim" if not run.outcome else "good" if run.outcome == GOOD_OUTCOME else "bad"
        lines = run.lines()
        return [
            Fact("command", printable(shlex.join(run.argv))),
            Fact("outcome", printable(run.outcome or "running"), tone),
            Fact("time", format_duration(run.duration_s)),
            Fact("output" if lines else "no output", ""),
            *(Fact("", line) for line in lines),
        ]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return True  # there is always something to copy

    def action_copy(self, index: int) -> None:
        self.post_message(self.CopyRequested("\n".join(self._run.lines())))
