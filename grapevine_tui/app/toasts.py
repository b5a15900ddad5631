"""Toasts for notices that need attention: a peer lost, a failed dial, throttling, state not saved, an
identity in use twice.

Invariants: notices of level `INFORMATION` are never shown, and at most `MAX_TOASTS` appear at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

from textual.app import App

from grapevine_tui.host.model import Model, NoticeLevel

ALERT_GAP_S: Final = 1.0  # between two alerts, so that many warnings ring once
MAX_TOASTS: Final = 3  # at once; more would cover the screen


class Toasts:
    """Shows the notices of `model` on `app`. `alert` gets the text of a warning, at most once a second."""

    def __init__(self, app: App[None], model: Model, alert: Callable[[str], None]) -> None:
        self._alert = alert
        self._alerted_at = -math.inf
        self._app = app
        self._model = model
        self._shown_count = model.notice_count  # a model may be older than the app that shows it

    def show(self) -> None:
        """Show the notices since the last call that need attention."""
        model = self._model
        new_count = min(model.notice_count - self._shown_count, len(model.notices))
        self._shown_count = model.notice_count
        notices = list(model.notices)[len(model.notices) - new_count :]
        urgent = [notice for notice in notices if notice.level is not NoticeLevel.INFORMATION]
        for notice in urgent[:MAX_TOASTS]:
            self._app.notify(notice.text, severity=notice.level.value, markup=False)
        if urgent and time.monotonic() - self._alerted_at >= ALERT_GAP_S:
            self._alerted_at = time.monotonic()
            self._alert(urgent[0].text)
        if len(urgent) > MAX_TOASTS:
            self._app.notify(f"{len(urgent) - MAX_TOASTS} more in S", markup=False)
