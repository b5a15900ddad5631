"""The app's themes: ours beside Textual's own, and the one that is worn.

What must stay true: the settings win over what was chosen on the screen last, which is remembered all the
same; a theme that is not there, or cannot be remembered, is told and is no reason to stop.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from textual.app import App
from textual.theme import Theme

from grapevine_tui.app.widgets.format import GRAPEVINE, GRAPEVINE_LIGHT, THEMES
from grapevine_tui.config.preferences import Preferences
from grapevine_tui.text import printable

LIGHT_BACKGROUND_CODES: Final = frozenset({"7", "15"})  # white and bright white, of the sixteen


def is_light_terminal(environment: Mapping[str, str]) -> bool:
    """Whether the terminal says that its background is light: COLORFGBG, ``foreground;background``."""
    return environment.get("COLORFGBG", "").rpartition(";")[2] in LIGHT_BACKGROUND_CODES


def _own(is_light: bool) -> Theme:
    return GRAPEVINE_LIGHT if is_light else GRAPEVINE


class ThemeManager:
    """Dresses `app`, and keeps what somebody chooses on the screen."""

    def __init__(self, app: App[None], preferences: Preferences) -> None:
        self._app = app
        self._preferences = preferences
        self._is_applied = False
        self._worn_unasked = ""  # the theme, while nobody has chosen one
        for theme in THEMES:
            app.register_theme(theme)

    def apply(self, requested: str) -> None:
        """Wear `requested`; where that is empty the theme chosen last, else our own for such a terminal."""
        requested = requested or self._preferences.load_theme()
        default = _own(is_light_terminal(os.environ))
        theme = requested if requested in self._app.available_themes else default.name
        self._app.theme = theme
        if requested and theme != requested:
            self._warn(f"unknown theme {printable(requested)!r}")
        self._worn_unasked = "" if requested else theme
        self._is_applied = True

    @property
    def wears_own(self) -> bool:
        """Whether the theme is our own choice and nobody else's."""
        return bool(self._worn_unasked) and self._app.theme == self._worn_unasked

    def take_background(self, is_light: bool) -> None:
        """The terminal says whether its background is light: wear the theme for that, unless somebody
        has chosen one. It is not remembered, for the next terminal may be another."""
        if not self.wears_own:
            return
        self._is_applied = False
        self._app.theme = self._worn_unasked = _own(is_light).name
        self._is_applied = True

    def on_changed(self, theme: str, configured: str) -> None:
        """`theme` is worn now: remember it, unless it was us. `configured`: what is set there."""
        if not self._is_applied or theme == self._preferences.load_theme():
            return
        try:
            self._preferences.save_theme(theme)
        except OSError as error:
            self._warn(printable(f"theme not saved: {error.strerror or error}"))
        else:
            if configured and self._preferences.is_persistent:
                text = f"theme {printable(configured)} from the settings applies again at restart"
                self._app.notify(text, markup=False)

    def _warn(self, text: str) -> None:
        self._app.notify(text, severity="warning", markup=False)
