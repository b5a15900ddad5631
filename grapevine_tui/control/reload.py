"""Reloads settings and keys while the node runs, on SIGHUP or ``ctl reload``.

Invariants:

- Everything is read and validated first; then all of it is applied, or nothing is.
- The outcome is in the reply, in the log and in `systemctl status`.
"""

from __future__ import annotations

import logging

from grapevine_proto.errors import GrapevineError
from grapevine_tui import logs, systemd
from grapevine_tui.config.edit import LiveSettings
from grapevine_tui.config.settings import Settings
from grapevine_tui.host.local import Host

logger = logging.getLogger("grapevine.reload")


class ReloadFailed(GrapevineError):
    """The files cannot be used. The node continues with its settings."""


def reload_settings(host: Host, initial: Settings) -> tuple[str, ...]:
    """Apply what changed in files since the process started with `initial`: keys, limits, log
    level.

    A log file that was moved away is created again in any case. Returns the names of settings that
    need a restart. Raises ReloadFailed; then nothing changed.
    """
    logs.reopen()
    systemd.notify_reloading()
    problem = "internal error"
    try:
        settings, pending_restart = LiveSettings(initial).reload(host.reconfigure)
        problem = ""
    except (GrapevineError, OSError) as error:
        problem = str(error)
        logger.error("not reloaded: %s", problem)  # noqa: TRY400  the operator's mistake, not ours
        raise ReloadFailed(f"not reloaded: {problem}") from None
    finally:
        systemd.notify_reloaded(host, problem)
    host.on_settings_saved(settings)
    host.pending_restart = pending_restart
    logs.set_level(settings.log_level)
    note = f"; restart needed for: {', '.join(pending_restart)}" if pending_restart else ""
    logger.info("reloaded%s", note)
    return pending_restart
