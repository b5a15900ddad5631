"""Invitations: one line with everything a second machine needs to join, and what that machine
writes.

Invariants:

- The line holds the cluster key. It is printed to stdout by ``invite`` and read by ``join`` from a
  hidden prompt or stdin; it appears in no command line, log or error.
- A damaged line is detected before anything is written.
- No key is overwritten, and nothing in an existing config file is lost: the file is changed only if
  the result parses as intended; otherwise the lines to add are printed.
"""

from __future__ import annotations

import binascii
import json
import tomllib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError, GrapevineError, KeyFileError
from grapevine_proto.ids import split_host_port
from grapevine_proto.storage.atomic_file import SHARED_MODE, atomic_write, make_private_directory
from grapevine_tui.config.toml_edit import edit_toml

PREFIX: Final = "grapevine-invitation-1:"
CHECKSUM_BYTES: Final = 6  # detects typing errors; not a protection against forgery
MAX_ADDRESSES: Final = 8  # in one line


class InvalidInvitation(GrapevineError):
    """The line is not a complete invitation. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a node needs to join a cluster. Raises ConfigError if a node could not use it."""

    secret: bytes = field(repr=False)
    cluster: str
    addresses: tuple[str, ...]

    def __post_init__(self) -> None:
        NodeConfig(cluster=self.cluster, bootstrap_peers=self.addresses, keys=(self.key,))

    @property
    def key(self) -> ClusterKey:
        return ClusterKey(self.secret)

    def to_line(self) -> str:
        """Format as one line, without a line end."""
        body = json.dumps([self.secret.hex(), self.cluster, self.addresses]).encode()
        return PREFIX + _encode(_checksum(body) + body)

    @classmethod
    def from_line(cls, line: str) -> Invitation:
        """Parse a line of `to_line`. Raises InvalidInvitation, whose message does not contain the
        line.
        """
        text = "".join(line.split())  # an email client may have wrapped it
        if not text.startswith(PREFIX):
            raise InvalidInvitation(f"not an invitation: expected a line starting with {PREFIX}")
        text = text.removeprefix(PREFIX)
        try:
            data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except (binascii.Error, ValueError):
            data = b""
        body = data[CHECKSUM_BYTES:]
        # Base64 has several encodings of some bytes; accept only the canonical one.
        if not body or data[:CHECKSUM_BYTES] != _checksum(body) or _encode(data) != text:
            raise InvalidInvitation(
                "the invitation is damaged: part of the line is missing or changed"
            )
        try:
            secret, cluster, addresses = json.loads(body)
            return cls(bytes.fromhex(secret), cluster, tuple(addresses[:MAX_ADDRESSES]))
        except (ValueError, TypeError, ConfigError):
            raise InvalidInvitation("the invitation cannot be used by this version") from None


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _checksum(body: bytes) -> bytes:
    return blake2b(body, digest_size=CHECKSUM_BYTES, person=b"gv invitation").digest()


def create_invitation(key_file: Path, cluster: str, addresses: Sequence[str]) -> Invitation:
    """Create an invitation with the key in `key_file`. Raises KeyFileError, ConfigError."""
    ClusterKey.load(key_file)  # reports everything that can be wrong with it
    secret = bytes.fromhex(key_file.read_text(encoding="ascii").strip())
    return Invitation(secret, cluster, tuple(addresses[:MAX_ADDRESSES]))


class JoinResult(NamedTuple):
    """What `accept_invitation` wrote."""

    key_file: Path
    is_new_key: bool
    config_file: Path
    changed: tuple[str, ...]


def accept_invitation(
    invitation: Invitation, config_file: Path, *, is_user_config: bool
) -> JoinResult:
    """Write the key and the settings, so that a node started with `config_file` joins the cluster.

    `is_user_config`: it is the user's own config file, whose `cluster.key` is used by default.
    Raises ConfigError and KeyFileError; then no setting was changed.
    """
    try:
        text = config_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config", f"{config_file}: {error}") from None
    settings = _parse_toml(text, config_file)
    key_file, is_new_key = _choose_key_file(invitation, config_file.parent)
    changes = _required_changes(
        invitation, settings, key_file, config_file, is_user_config=is_user_config
    )
    new = edit_keeping_comments(text, changes)
    if new is None:
        raise ConfigError(
            "config", f"{config_file}: not changed; add to it: {_format_settings(changes)}"
        )
    try:
        make_private_directory(config_file.parent)
    except OSError as error:
        raise ConfigError("config", f"{config_file.parent}: {error.strerror}") from None
    if is_new_key:
        invitation.key.save(key_file)
    if changes:
        try:
            atomic_write(config_file, new.encode(), mode=SHARED_MODE)
        except OSError as error:
            raise ConfigError("config", f"{config_file}: {error.strerror}") from None
    return JoinResult(key_file, is_new_key, config_file, tuple(changes))


def _choose_key_file(invitation: Invitation, directory: Path) -> tuple[Path, bool]:
    """Return the path of the key and whether it must be written. Raises KeyFileError."""
    key = invitation.key
    for name in ("cluster.key", f"cluster-{key.fingerprint}.key"):
        path = directory / name
        if not path.exists():
            return path, True
        if ClusterKey.load(path) == key:
            return path, False
    raise KeyFileError(f"key file {path}: contains another key; not overwritten")


def _required_changes(
    invitation: Invitation,
    settings: dict[str, Any],
    key_file: Path,
    config_file: Path,
    *,
    is_user_config: bool,
) -> dict[str, Any]:
    """Return the settings that must change. Raises ConfigError if the file configures another
    cluster.
    """
    changes: dict[str, Any] = {}
    known = settings.get("bootstrap_peers", [])
    peers = [*known, *(each for each in invitation.addresses if each not in known)]
    if peers != known:
        changes["bootstrap_peers"] = peers
    cluster = settings.get("cluster", "default")
    if cluster != invitation.cluster:
        if "cluster" in settings and cluster != "default":
            raise ConfigError(
                "cluster",
                f"{config_file} belongs to cluster {cluster!r}; use another file (--config FILE)",
            )
        changes["cluster"] = invitation.cluster
    keys = settings.get("key_files", [])
    is_default = is_user_config and not keys and key_file.name == "cluster.key"
    if not is_default and key_file.name not in keys and str(key_file) not in keys:
        changes["key_files"] = [key_file.name, *keys]
    is_remote = any(not is_loopback(each) for each in invitation.addresses)
    if is_remote and "bind" not in settings:
        changes["bind"] = "0.0.0.0:8000"  # a node on loopback cannot reach another machine
    return changes


def is_loopback(address: str) -> bool:
    host = split_host_port(address)[0]
    return host in ("localhost", "::1") or host.startswith("127.")


# --- the config file ------------------------------------------------------------------------------


def edit_keeping_comments(text: str, changes: dict[str, Any]) -> str | None:
    """Apply `changes` to `text` of a TOML file and keep its comments; None if the result does not
    parse as intended.
    """
    result = edit_toml(text, changes)
    return result.text if result.comments_preserved else None


def _format_setting(name: str, value: Any) -> str:
    return f"{name} = {json.dumps(value, ensure_ascii=False)}"


def _format_settings(changes: dict[str, Any]) -> str:
    return "; ".join(_format_setting(name, value) for name, value in changes.items())


def _parse_toml(text: str, config_file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config", f"{config_file}: not TOML: {error}") from None
