"""What every app of this program shares: colors, sequences for its terminal, and its exit code.

Invariants: all colors come from the theme, with enough contrast; an internal error is never exit code 0.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from rich.console import RenderableType
from textual.app import App

from grapevine_tui.app.contrast import with_contrast
from grapevine_tui.app.terminal import understands_osc
from grapevine_tui.app.themes import THEME_VARIABLES


class ThemedApp(App[None]):
    """An app with our colors."""

    TITLE = "grapevine"
    CSS_PATH: ClassVar[Path] = Path(__file__).with_name("grapevine.tcss")
    _has_panicked = False

    @property
    def is_readonly(self) -> bool:
        """Whether nothing that is shown can be changed from here."""
        return False

    @property
    def _has_terminal(self) -> bool:
        """Whether the app runs on a terminal, not a browser, that ignores unknown OSC sequences."""
        is_without_terminal = self.is_headless or self.is_web or self._driver is None
        return not is_without_terminal and understands_osc(os.environ)

    def _write_to_terminal(self, sequence: str) -> None:
        """Write a control sequence that changes no cell of the screen."""
        if self._driver is not None:
            self._driver.write(sequence)

    def alert_operator(self, how: str, text: str) -> None:
        """Ring the bell or show a terminal notification of printable `text`; `how` is one of `ALERTS`."""
        match how:
            case "bell":
                self.bell()
            case "notify" if self._has_terminal:
                self._write_to_terminal(f"\x1b]9;{text}\x07")
            case "notify-777" if self._has_terminal:
                self._write_to_terminal(f"\x1b]777;notify;grapevine;{text}\x07")

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return THEME_VARIABLES

    def get_css_variables(self) -> dict[str, str]:
        self.theme_variables = with_contrast(super().get_css_variables())
        return self.theme_variables

    def panic(self, *renderables: RenderableType) -> None:
        self._has_panicked = True
        super().panic(*renderables)

    @property
    def exit_code(self) -> int:
        """The exit code of the process; 1 after an internal error, wherever it was raised."""
        return self.return_code or int(self._has_panicked)
