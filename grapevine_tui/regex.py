"""Regular expressions that users type, matched in time that is linear in the text.

Invariants:

- No expression stalls its caller: RE2 never backtracks, and an expression whose program is so large that
  16 KiB of text would take more than about 20 ms is refused.
- RE2 is an optional package and imported only for the first expression.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Protocol

MAX_PROGRAM_INSTRUCTIONS: Final = 500  # `.{0,50}` has about 400
MAX_MEMORY_BYTES: Final = (
    2**18
)  # of one expression; with less, RE2 leaves its fast automaton more often
MAX_CACHED: Final = 64
LINES_FLAG: Final = b"(?m)"
MISSING_TEXT: Final = (
    "regular expressions need the package google-re2: pip install 'grapevine-tui[regex]'"
)


class BadRegex(ValueError):
    """An expression cannot be used. The message says why, in one line."""


class Regex(Protocol):
    """A compiled expression."""

    def search(self, text: bytes) -> Any:
        """Where the expression matches; None if nowhere."""
        ...


@lru_cache(MAX_CACHED)
def compile_regex(text: str) -> Regex:
    """Compile `text`, to be searched for in UTF-8, ignoring case; ``^`` and ``$`` are ends of lines. Raises
    BadRegex."""
    try:
        import re2
    except ImportError:
        raise BadRegex(MISSING_TEXT) from None
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = MAX_MEMORY_BYTES
    try:
        compiled: Any = re2.compile(LINES_FLAG + text.encode("utf-8", "replace"), options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        problem = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        problem = problem.replace(LINES_FLAG.decode(), "")
        raise BadRegex(problem or "not an expression") from None
    if compiled.programsize > MAX_PROGRAM_INSTRUCTIONS:
        raise BadRegex("the expression is too large; shorten what it repeats")
    found: Regex = compiled
    return found
