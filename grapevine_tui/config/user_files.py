"""Where this user's files are: settings, cluster key, state.

What must stay true:

- A key that is made is readable by its owner alone, and of two first runs at once both get one key.
- A user without a home directory (a container with an arbitrary user id) needs none as long as what would
  be there is named; where it is not, one line says by what option.
- A relative `HOME_SYMBOL` or ``XDG_*`` counts as not set, as the XDG specification has it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError, KeyFileError

USES_XDG: Final = sys.platform not in ("win32", "darwin")
CONFIG_FILE: Final = "config.toml"
DIRECTORY_NAME: Final = (
    "grapevine"  # of this user's configuration and state, where the system keeps those
)


def user_config_file() -> Path:
    """Where this user's settings are looked for. Raises ConfigError where the user has no home."""
    directory = _user_directory("config")
    if directory is None:
        raise ConfigError("app.config", f"{_no_home_text()}; name a config file: --config FILE")
    return directory / CONFIG_FILE


def user_config_directory() -> Path:
    """What relative paths in this user's settings start from; the working directory without a home."""
    return _user_directory("config") or Path()


def user_key_file() -> Path:
    """Where this user's cluster key is, or would be. Raises KeyFileError where the user has no home."""
    directory = _user_directory("config")
    if directory is None:
        raise KeyFileError(
            f"no key file: {_no_home_text()}; name one: --key-file or GRAPEVINE_KEY_FILE"
        )
    return directory / "cluster.key"


def user_state_directory() -> Path:
    """Under this, nodes of this user keep their state where no folder was named. Raises ConfigError where
    the user has no home."""
    directory = _user_directory("state")
    if directory is None:
        where = "name a state directory: --state-dir or GRAPEVINE_STATE_DIR"
        raise ConfigError("app.state_dir", f"{_no_home_text()}; {where}")
    return directory


def ensure_user_key() -> Path:
    """The path of this user's cluster key, which is made if there is none. Raises KeyFileError."""
    path = user_key_file()
    ClusterKey.load_or_generate(path)
    return path


def expand_user(name: str, path: str) -> Path:
    """`path` with its ``~`` replaced. Raises ConfigError for the setting `name` where there is no such
    user, or no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(name, f"{path!r}: there is no such user or home directory") from None


def home_directory() -> Path | None:
    """The home directory of this user; None: there is none."""
    named = os.environ.get("HOME", "")
    if sys.platform != "win32" and not os.path.isabs(named):
        import pwd

        try:
            named = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
        return Path(named) if os.path.isabs(named) else None
    return Path.home()


def _user_directory(kind: str) -> Path | None:
    home = home_directory()
    if USES_XDG:
        named = os.environ.get(
            "XDG_CONFIG_HOME" if kind == "config" else "XDG_STATE_HOME", ""
        ).strip()
        if os.path.isabs(named):
            return Path(named) / DIRECTORY_NAME
        relative = ".config" if kind == "config" else ".local/state"
        return None if home is None else home / relative / DIRECTORY_NAME
    if home is None:
        return None
    import platformdirs

    if kind == "config":
        return platformdirs.user_config_path(DIRECTORY_NAME, appauthor=False)
    return platformdirs.user_state_path(DIRECTORY_NAME, appauthor=False)


def _no_home_text() -> str:
    return f"user id {os.getuid()} has no home directory" if hasattr(os, "getuid") else "no home"
