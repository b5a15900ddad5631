"""Secrets in environment variables.

Invariants: a secret is read once and its variable deleted, so no child process inherits it.
"""

from __future__ import annotations

import os


def pop_variable(name: str) -> str | None:
    """Returns the value of the environment variable `name` and deletes it; None if it is not set."""
    return os.environ.pop(name, None)
