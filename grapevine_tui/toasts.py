"""Words over the screen for what needs an eye: a peer lost, an address that refuses or is silent, a
throttling that began, a state that is not saved, an identity in use twice.

What must stay true: what only informs is never shown so, and never more than `TOASTS` at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from textual.app import App

from grapevine_tui.model import Level, Model

ALERT_GAP_S: Final = 1.0  # a storm of warnings rings no storm of bells
TOASTS: Final = 3  # at once; more would hide the screen


class Toasts:
    """Shows on `app` what `model` notices."""

    def __init__(self, app: App[None], model: Model, alert: Callable[[str], None]) -> None:
        self._alert = alert  # gets the words of a warning, at most once a second
        self._alerted_at = -math.inf
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
        if urgent and time.monotonic() - self._alerted_at >= ALERT_GAP_S:
            self._alerted_at = time.monotonic()
            self._alert(urgent[0].text)
        if len(urgent) > TOASTS:
            self._app.notify(f"and {len(urgent) - TOASTS} more: see S", markup=False)
