"""Where this user's files are: settings, cluster key, state.

What must stay true: a key that is made is readable by its owner alone, and of two first runs at once
both get one key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grapevine_proto.identity import ClusterKey

FOLDER: Final = "grapevine"  # of this user's configuration and state, where the system keeps those


def own_config_file() -> Path:
    """Where this user's settings are looked for."""
    return _user_folder("config") / "config.toml"


def own_key_file() -> Path:
    """Where this user's cluster key is, or would be."""
    return _user_folder("config") / "cluster.key"


def state_root() -> Path:
    """Under this, nodes of this user keep their state where no folder was named."""
    return _user_folder("state")


def own_key() -> Path:
    """The path of this user's cluster key, which is made if there is none. Raises KeyFileError."""
    path = own_key_file()
    ClusterKey.load_or_generate(path)
    return path


def _user_folder(kind: str) -> Path:
    import platformdirs

    if kind == "config":
        return platformdirs.user_config_path(FOLDER, appauthor=False)
    return platformdirs.user_state_path(FOLDER, appauthor=False)
