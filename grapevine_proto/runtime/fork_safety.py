"""What a child process made by `os.fork` must not share with its parent: sockets, locks and nonces.

A fork (multiprocessing's start method `fork`, a pre-forking server) copies every object and every
descriptor. The parent's node goes on; its copies in the child are dead.

Invariants:

- The child gives up its copies without touching what the parent still uses: it never unlocks a lock, and
  never unregisters a descriptor from the parent's event loop (which the two share).
- Objects that hold nothing when the fork happens are left as they are, so that the child can use them.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """Something that holds what a child must not have."""

    def on_forked(self) -> None:
        """Give it up: called in the child, first of all. Must not raise and not wait."""
        ...


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def register_at_fork(resource: ForkAware) -> None:
    """Have `resource` told in every child that is forked from now on, as long as it lives."""
    _registered.add(resource)


def detach_descriptor(fd: int) -> None:
    """Let go of what is behind the descriptor `fd`, whose number stays taken: whoever closes it later
    closes nothing else."""
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
