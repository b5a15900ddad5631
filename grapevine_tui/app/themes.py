"""The app's own themes, and the choice of the theme in use.

Invariants:

- A theme from the settings wins over the theme remembered from the screen; a choice on the screen is
  remembered either way.
- An unknown theme, or a choice that cannot be saved, is a warning and never ends the app.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from textual.app import App
from textual.theme import Theme

from grapevine_tui.config.preferences import Preferences
from grapevine_tui.text import printable

GRAPEVINE: Final = Theme(
    name="grapevine",
    primary="#8fce5a",  # a vine leaf in the sun
    secondary="#a98be8",  # a grape
    accent="#d8a4ff",
    warning="#f0b952",
    error="#ff6f7d",
    success="#8fce5a",
    foreground="#e4deef",
    background="#131019",
    surface="#191522",
    panel="#241e31",
    dark=True,
    variables={
        "border-blurred": "#3a3150",
        "text-muted": "#a197b5",
        "text-disabled": "#6f6587",
        "footer-background": "#191522",
        "footer-key-foreground": "#d8a4ff",
        "footer-description-foreground": "#a79dba",
        "input-selection-background": "#a98be8 40%",
        "block-cursor-background": "#8fce5a",
        "block-cursor-foreground": "#131019",
        "scrollbar": "#3a3150",
        "scrollbar-hover": "#54477a",
        "scrollbar-active": "#8fce5a",
        "scrollbar-background": "#191522",
        "scrollbar-background-hover": "#191522",
        "scrollbar-background-active": "#191522",
        "scrollbar-corner-color": "#191522",
    },
)
GRAPEVINE_LIGHT: Final = Theme(
    name="grapevine-light",
    primary="#3f7d1c",
    secondary="#6b43b5",
    accent="#8a2fc0",
    warning="#9a6100",
    error="#b8243a",
    success="#3f7d1c",
    foreground="#2a2338",
    background="#f6f3fa",
    surface="#fdfcff",
    panel="#e9e3f2",
    dark=False,
    variables={
        "border-blurred": "#cabfdd",
        "text-muted": "#665c7a",
        "text-disabled": "#958ba8",
        "author-4": "#0b7285",
        "author-5": "#b03a6d",
        "footer-background": "#e9e3f2",
        "footer-key-foreground": "#6b43b5",
        "footer-description-foreground": "#5c5270",
        "scrollbar": "#cabfdd",
        "scrollbar-background": "#fdfcff",
        "scrollbar-corner-color": "#fdfcff",
    },
)
GRAPEVINE_CONTRAST: Final = Theme(
    name="grapevine-contrast",
    primary="#8cff3f",
    secondary="#8fd8ff",
    accent="#ffd866",
    warning="#ffb84d",
    error="#ff9b9b",
    success="#8cff3f",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1c1c1c",
    dark=True,
    variables={
        "border-blurred": "#8a8a8a",
        "text-muted": "#d7d7d7",
        "text-disabled": "#c0c0c0",
        "author-4": "#7fe9f5",
        "author-5": "#ffb3d9",
    },
)
THEMES: Final = (GRAPEVINE, GRAPEVINE_LIGHT, GRAPEVINE_CONTRAST)
# Colors that Textual's own themes lack.
THEME_VARIABLES: Final = {"author-4": "#5cc3d4", "author-5": "#e692b4"}


LIGHT_BACKGROUND_CODES: Final = frozenset({"7", "15"})  # white and bright white, of the sixteen


def is_light_terminal(environment: Mapping[str, str]) -> bool:
    """Return whether COLORFGBG (``foreground;background``) names a light background."""
    return environment.get("COLORFGBG", "").rpartition(";")[2] in LIGHT_BACKGROUND_CODES


def default_theme(is_light: bool) -> Theme:
    """Return our theme for a light or dark terminal."""
    return GRAPEVINE_LIGHT if is_light else GRAPEVINE


class ThemeManager:
    """Applies themes to `app` and saves the user's choice to `preferences`."""

    def __init__(self, app: App[None], preferences: Preferences) -> None:
        self._app = app
        self._preferences = preferences
        self._is_applied = False
        self._default_theme = ""  # the theme in use while it is our default, else ""
        for theme in THEMES:
            app.register_theme(theme)

    def apply(self, requested: str) -> None:
        """Apply `requested`; if empty, the remembered theme, else the default for this terminal."""
        requested = requested or self._preferences.load_theme()
        default = default_theme(is_light_terminal(os.environ))
        theme = requested if requested in self._app.available_themes else default.name
        self._app.theme = theme
        if requested and theme != requested:
            self._warn(f"unknown theme {printable(requested)!r}")
        self._default_theme = "" if requested else theme
        self._is_applied = True

    @property
    def is_default(self) -> bool:
        """Whether the theme is the default and not the user's choice."""
        return bool(self._default_theme) and self._app.theme == self._default_theme

    def on_background(self, is_light: bool) -> None:
        """Apply the default theme for the terminal's background, unless the user has chosen a theme. The
        result is not remembered: the next terminal may differ."""
        if not self.is_default:
            return
        self._is_applied = False
        self._app.theme = self._default_theme = default_theme(is_light).name
        self._is_applied = True

    def on_changed(self, theme: str, configured: str) -> None:
        """Remember `theme`, unless this class applied it. `configured` is the theme in the settings."""
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
