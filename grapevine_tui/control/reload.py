"""Settings and keys read again while the node runs: by SIGHUP, and by ``ctl reload``.

Invariants:

- All that can be taken over is taken over, or nothing is: everything is read and checked first.
- Whoever asked learns which: from the reply, the log, and what `systemctl status` shows.
"""

from __future__ import annotations

import logging

from grapevine_proto.errors import GrapevineError
from grapevine_tui import logs, systemd
from grapevine_tui.config.edit import settings_pending_restart
from grapevine_tui.config.settings import Settings
from grapevine_tui.host.local import Host

logger = logging.getLogger("grapevine.reload")


class ReloadFailed(GrapevineError):
    """What was read cannot be used. The node goes on as before."""


def reload_settings(host: Host, initial: Settings) -> tuple[str, ...]:
    """Take over what changed in files since the process started with `initial`: keys, limits, log level.
    A log file that was moved away is made anew all the same.

    Returns the names of the settings that wait for a restart. Raises NotReloaded; then nothing changed.
    """
    logs.reopen()
    systemd.notify_reloading()
    problem = "internal error"
    try:
        settings = initial.reload().with_keys()
        host.reconfigure(settings.node)
        problem = ""
    except (GrapevineError, OSError) as error:
        problem = str(error)
        logger.error("not reloaded: %s", problem)  # noqa: TRY400  the operator's mistake, not ours
        raise ReloadFailed(f"not reloaded: {problem}") from None
    finally:
        systemd.notify_reloaded(host, problem)
    host.pending_restart = settings_pending_restart(initial, settings)
    logs.set_level(settings.log_level)
    pending_restart = ", ".join(host.pending_restart)
    logger.info(
        "reloaded%s", f"; a restart is needed for: {pending_restart}" if pending_restart else ""
    )
    return host.pending_restart
