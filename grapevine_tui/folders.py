"""Where this user's files are: settings, cluster key, state.

What must stay true:

- A key that is made is readable by its owner alone, and of two first runs at once both get one key.
- A user without a home directory (a container with an arbitrary user id) needs none as long as what would
  be there is named; where it is not, one line says by what option.
- A relative `HOME` or ``XDG_*`` counts as not set, as the XDG specification has it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from grapevine_proto.errors import ConfigError, KeyFileError
from grapevine_proto.identity import ClusterKey

HAS_XDG: Final = sys.platform not in ("win32", "darwin")
CONFIG_FILE: Final = "config.toml"
FOLDER: Final = "grapevine"  # of this user's configuration and state, where the system keeps those


def own_config_file() -> Path:
    """Where this user's settings are looked for. Raises ConfigError where the user has no home."""
    folder = _user_folder("config")
    if folder is None:
        raise ConfigError("app.config", f"{_no_home()}; name a config file: --config FILE")
    return folder / CONFIG_FILE


def own_config_folder() -> Path:
    """What relative paths in this user's settings start from; the working directory without a home."""
    return _user_folder("config") or Path()


def own_key_file() -> Path:
    """Where this user's cluster key is, or would be. Raises KeyFileError where the user has no home."""
    folder = _user_folder("config")
    if folder is None:
        raise KeyFileError(f"no key file: {_no_home()}; name one: --key-file or GRAPEVINE_KEY_FILE")
    return folder / "cluster.key"


def state_root() -> Path:
    """Under this, nodes of this user keep their state where no folder was named. Raises ConfigError where
    the user has no home."""
    folder = _user_folder("state")
    if folder is None:
        where = "name a state directory: --state-dir or GRAPEVINE_STATE_DIR"
        raise ConfigError("app.state_dir", f"{_no_home()}; {where}")
    return folder


def own_key() -> Path:
    """The path of this user's cluster key, which is made if there is none. Raises KeyFileError."""
    path = own_key_file()
    ClusterKey.load_or_generate(path)
    return path


def expanded(name: str, path: str) -> Path:
    """`path` with its ``~`` replaced. Raises ConfigError for the setting `name` where there is no such
    user, or no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(name, f"{path!r}: there is no such user or home directory") from None


def home() -> Path | None:
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


def _user_folder(kind: str) -> Path | None:
    own = home()
    if HAS_XDG:
        named = os.environ.get(
            "XDG_CONFIG_HOME" if kind == "config" else "XDG_STATE_HOME", ""
        ).strip()
        if os.path.isabs(named):
            return Path(named) / FOLDER
        usual = ".config" if kind == "config" else ".local/state"
        return None if own is None else own / usual / FOLDER
    if own is None:
        return None
    import platformdirs

    if kind == "config":
        return platformdirs.user_config_path(FOLDER, appauthor=False)
    return platformdirs.user_state_path(FOLDER, appauthor=False)


def _no_home() -> str:
    return f"user id {os.getuid()} has no home directory" if hasattr(os, "getuid") else "no home"
