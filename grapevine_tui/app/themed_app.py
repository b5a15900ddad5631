"""What every app of this program shares: colors, and an exit code that tells of an internal error.

Invariants: all colors come from the theme, with enough contrast.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.console import RenderableType
from textual.app import App

from grapevine_tui.app.contrast import with_contrast
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
