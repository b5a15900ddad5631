"""Fork safety: a child of `os.fork` must not share sockets, locks and nonces with its parent.

A fork (multiprocessing's start method `fork`, a pre-forking server) copies every object and descriptor.
The parent's node continues; its copy in the child is released.

Invariants:

- The child releases its copies without affecting the parent: it never releases a lock, and never
  unregisters a descriptor from the selector, which both share.
- Objects that hold nothing at the time of the fork stay unchanged, so the child can use them.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """An object with resources that a forked child must not use."""

    def on_forked(self) -> None:
        """Releases the resources. Called in the child before anything else. Must neither raise nor wait."""
        ...


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register_at_fork(resource: ForkAware) -> None:
    """Calls `resource.on_forked` in every forked child while `resource` exists."""
    _registered.add(resource)


def detach_descriptor(fd: int) -> None:
    """Redirects the descriptor `fd` to the null device. Its number stays in use, so a later close affects
    no other file."""
    null_fd = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(null_fd, fd, inheritable=False)
    finally:
        os.close(null_fd)


def _after_fork_in_child() -> None:
    for resource in list(_registered):
        resource.on_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
