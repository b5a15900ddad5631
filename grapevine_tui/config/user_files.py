"""Paths of this user's files: config file, cluster key, state.

Invariants:

- A new key is readable by its owner only, and two concurrent first starts use the same key.
- A user without a home directory (a container with an arbitrary user ID) needs none if all paths
  are given; a missing one is reported with the option to set.
- A relative `HOME` or ``XDG_*`` counts as unset, as in the XDG Base Directory specification.
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
DIRECTORY_NAME: Final = "grapevine"  # in the user's configuration and state directories


def user_config_file() -> Path:
    """Path of the user's config file. Raises ConfigError if the user has no home directory."""
    directory = _user_directory("config")
    if directory is None:
        raise ConfigError("app.config", f"{_no_home_text()}; name a config file: --config FILE")
    return directory / CONFIG_FILE


def user_config_directory() -> Path:
    """Directory that relative paths in the user's settings start from; without a home, the working
    directory.
    """
    return _user_directory("config") or Path()


def user_key_file() -> Path:
    """Path of the user's cluster key, whether it exists or not. Raises KeyFileError if the user has
    no home directory.
    """
    directory = _user_directory("config")
    if directory is None:
        raise KeyFileError(
            f"no key file: {_no_home_text()}; name one: --key-file or GRAPEVINE_KEY_FILE"
        )
    return directory / "cluster.key"


def user_state_directory() -> Path:
    """Directory that holds one state directory per port. Raises ConfigError if the user has no home
    directory.
    """
    directory = _user_directory("state")
    if directory is None:
        where = "name a state directory: --state-dir or GRAPEVINE_STATE_DIR"
        raise ConfigError("app.state_dir", f"{_no_home_text()}; {where}")
    return directory


def ensure_user_key() -> Path:
    """Path of the user's cluster key, which is created if it does not exist. Raises KeyFileError."""
    path = user_key_file()
    ClusterKey.load_or_generate(path)
    return path


def expand_user(name: str, path: str) -> Path:
    """Expand ``~`` in `path`. Raises ConfigError for the setting `name` if the user or the home
    directory does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(name, f"{path!r}: no such user or home directory") from None


def home_directory() -> Path | None:
    """Home directory of the user; None if there is none."""
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
