"""Where this user's files are: settings, cluster key, state.

What must stay true: a key that is made is readable by its owner alone, and of two first runs at once
both get one key.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from grapevine_proto.errors import KeyFileError
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
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Written aside and linked into place, so that of two first runs at once both get one key.
            aside = path.with_name(f"{path.name}.{os.getpid()}")
            aside.unlink(missing_ok=True)
            ClusterKey.generate().save(aside)
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
            aside.unlink()
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from None
    return path


def _user_folder(kind: str) -> Path:
    import platformdirs

    if kind == "config":
        return platformdirs.user_config_path(FOLDER, appauthor=False)
    return platformdirs.user_state_path(FOLDER, appauthor=False)
