"""Words over the screen for what needs an eye: a peer lost, an address that refuses or is silent, a
throttling that began, a state that is not saved, an identity in use twice.

What must stay true: what only informs is never shown so, and never more than `TOASTS` at once.
"""

from __future__ import annotations

from typing import Final

from textual.app import App

from grapevine_tui.model import Level, Model

TOASTS: Final = 3  # at once; more would hide the screen


class Toasts:
    """Shows on `app` what `model` notices."""

    def __init__(self, app: App[None], model: Model) -> None:
        self._app = app
        self._model = model
        self._shown = 0

    def show(self) -> None:
        """Show what has come to notice since the last time, if it needs an eye."""
        model = self._model
        fresh = min(model.notice_count - self._shown, len(model.notices))
        self._shown = model.notice_count
        notices = list(model.notices)[len(model.notices) - fresh :]
        urgent = [notice for notice in notices if notice.level is not Level.INFORMATION]
        for notice in urgent[:TOASTS]:
            self._app.notify(notice.text, severity=notice.level.value, markup=False)
        if len(urgent) > TOASTS:
            self._app.notify(f"and {len(urgent) - TOASTS} more: see S", markup=False)
