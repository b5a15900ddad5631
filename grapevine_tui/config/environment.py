"""Settings from environment variables and from the `.env` file of the working directory.

Invariants:

- A `.env` file counts only if it sets a variable of this program; one of another project is never
  an error.
- A `.env` file that sets such a variable is rejected if another user can change it. It cannot name
  a config file, because a config file may name programs.
- Service links of Kubernetes and Docker (``BIND_PORT=tcp://10.0.0.1:53``) are not settings.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from grapevine_proto.config.toml import did_you_mean
from grapevine_proto.errors import ConfigError
from grapevine_proto.storage.permissions import UntrustedFile, open_trusted
from grapevine_tui.config.options import OPTIONS

VARIABLE_PREFIX: Final = "GRAPEVINE_"
CONFIG_VARIABLE: Final = "GRAPEVINE_CONFIG"
READ_ONLY_VARIABLE: Final = "GRAPEVINE_READ_ONLY"
"""Set for programs that a read-only app runs: ``ctl``, ``attach`` and ``fleet`` are read-only then."""
MAX_ENV_FILE_BYTES: Final = 1 << 20
KNOWN_VARIABLES: Final = frozenset(option.env for option in OPTIONS if option.env)
_SERVICE_LINK_URL: Final = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
_SERVICE_LINK_NAME: Final = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$"
)


class Variables(NamedTuple):
    """Variables by name, and warnings about them."""

    values: Mapping[str, str]
    warnings: tuple[str, ...]


def _own_variable() -> re.Pattern[str]:
    """Matches a variable of this program. Compiled when needed, for that takes a millisecond."""
    return re.compile(rf"\b({'|'.join(sorted(KNOWN_VARIABLES))}|{VARIABLE_PREFIX}\w+)\b")


def read_env_file(path: Path) -> Variables:
    """Read the variables that `path` sets. Raises ConfigError if it sets one of ours and cannot be
    trusted or read, or names a config file.
    """
    try:
        text, problem = _read_file(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return Variables({}, ())
    except OSError as error:
        return Variables({}, (f"{path} is ignored: {error.strerror}",))
    own_variable = _own_variable()
    if not own_variable.search(text) and (problem or "RUST_LOG" not in text):
        return Variables({}, ())
    from dotenv import dotenv_values  # imported late: most starts do not need it
    from dotenv.parser import parse_stream

    bindings = list(parse_stream(io.StringIO(text)))
    broken = [each.original for each in bindings if each.error]
    for line in broken:
        if own_variable.search(line.string):
            raise ConfigError("", f"{path}, line {line.line}: expected NAME=value")
    sets_own_variable = any(own_variable.fullmatch(each.key) for each in bindings if each.key)
    if problem and sets_own_variable:
        raise ConfigError("", f"{path}: {problem}")
    valid_lines = (
        "" if problem else "".join(each.original.string for each in bindings if not each.error)
    )
    values = dotenv_values(stream=io.StringIO(valid_lines))
    if values.get(CONFIG_VARIABLE):
        raise ConfigError(
            "app.config",
            f"{path}: {CONFIG_VARIABLE} is not read from a .env file; use --config or the environment",
        )
    warnings = [f"{path}, line {each.line}: not NAME=value; the line is ignored" for each in broken]
    return Variables(
        {name: value for name, value in values.items() if value is not None},
        tuple(warnings) if sets_own_variable else (),
    )


def without_service_links(variables: Mapping[str, str], source: str) -> Variables:
    """Return `variables` without service links that happen to have our names.

    A service named `bind` sets ``BIND_PORT`` in every container beside it (Kubernetes, unless
    `enableServiceLinks: false`); a service named `grapevine` sets ``GRAPEVINE_PORT`` and others.
    """
    links = [
        name
        for name, value in variables.items()
        if (
            name in KNOWN_VARIABLES
            and name.endswith("_PORT")
            and _SERVICE_LINK_URL.match(value.strip())
        )
        or (
            name.startswith(VARIABLE_PREFIX)
            and name not in KNOWN_VARIABLES
            and _SERVICE_LINK_NAME.search(name)
        )
    ]
    # Docker's legacy links also set NAME to the link's path, which is not a node name.
    if _SERVICE_LINK_URL.match(variables.get("GRAPEVINE_PORT", "")) and "/" in variables.get(
        "GRAPEVINE_NAME", ""
    ):
        links.append("GRAPEVINE_NAME")
    if not links:
        return Variables(variables, ())
    more = f" and {len(links) - 1} more" if len(links) > 1 else ""
    warning = f"{links[0]}{more} in {source} is a service link of Kubernetes or Docker; ignored"
    return Variables(
        {name: value for name, value in variables.items() if name not in links}, (warning,)
    )


def unknown_variable_warnings(variables: Mapping[str, str], source: str) -> tuple[str, ...]:
    """Return a warning for each variable with our prefix that is not a setting."""
    return tuple(
        f"{name} in {source} is not a setting{did_you_mean(name, KNOWN_VARIABLES)}"
        for name in variables
        if name.startswith(VARIABLE_PREFIX) and name not in (*KNOWN_VARIABLES, READ_ONLY_VARIABLE)
    )


def _read_file(path: Path) -> tuple[str, str]:
    """Return the text of the file and why it must not be used; an empty reason if it may. Raises
    OSError.
    """
    problem = ""
    try:
        file = open_trusted(path)
    except UntrustedFile as error:
        problem = str(error.strerror)
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(path)
    with os.fdopen(file, "rb") as stream:
        data = stream.read(MAX_ENV_FILE_BYTES + 1)
    if len(data) > MAX_ENV_FILE_BYTES:
        return "", ""
    try:
        return data.decode("utf-8-sig"), problem
    except UnicodeDecodeError:
        return data.decode("latin-1"), problem or "not UTF-8 text"
