"""Topics, which say what a message is about, and patterns that select them, as in NATS.

A topic is up to eight parts of ``a-z``, ``0-9``, ``_`` and ``-``, joined by dots: ``deploy.web.eu``. In a
pattern the part ``*`` stands for any one part, and ``>`` at the end for one or more: ``deploy.*.eu``,
``deploy.>``.

Invariants:

- A topic is plain ASCII of at most `MAX_TOPIC_BYTES`, so it needs no escaping and is one label everywhere.
- Matching costs at most two branches per part, however many patterns there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from grapevine_proto.errors import InvalidArgument

MAX_TOPIC_BYTES: Final = 64
MAX_TOPIC_PARTS: Final = 8
MAX_PATTERNS: Final = 256  # per node

_PART: Final = re.compile(r"[a-z0-9_-]+", re.ASCII)
_ANY_PART: Final = "*"
_REST: Final = ">"

_Trie: TypeAlias = dict[str, "_Trie"]  # the empty key marks the end of a pattern


def topic_fault(text: object) -> str:
    """Returns why `text` is not a topic; empty if it is one."""
    return _fault(text, is_pattern=False)


def pattern_fault(text: object) -> str:
    """Returns why `text` is not a pattern; empty if it is one. A topic is a pattern that selects itself."""
    return _fault(text, is_pattern=True)


def _fault(text: object, *, is_pattern: bool) -> str:
    if not isinstance(text, str):
        return f"expected text, got {type(text).__name__}"
    shown = repr(text[:80])
    if len(text) > MAX_TOPIC_BYTES:
        return f"{shown} is longer than {MAX_TOPIC_BYTES} bytes"
    parts = text.split(".")
    if len(parts) > MAX_TOPIC_PARTS:
        return f"{shown} has more than {MAX_TOPIC_PARTS} parts"
    if is_pattern and parts[-1] == _REST:
        parts.pop()
    for part in parts:
        if _PART.fullmatch(part) or (is_pattern and part == _ANY_PART):
            continue
        if not part:
            return f"{shown} is empty, or has an empty part between dots"
        if part in (_ANY_PART, _REST):
            problem = "may only be the last part" if is_pattern else "belongs in a pattern"
            return f"{part} in {shown} {problem}"
        if is_pattern and (_ANY_PART in part or _REST in part):
            return f"{shown}: {_ANY_PART} and {_REST} must stand alone between dots"
        return f"{shown} has characters other than a-z, 0-9, _ and -"
    return ""


def topic_patterns(topics: Iterable[str]) -> list[str]:
    """Returns patterns that select some of `topics`, sorted: for topics with several parts, ``FIRST.>``; and
    each topic itself."""
    starts = {f"{each.partition('.')[0]}.>" for each in topics if "." in each}
    return sorted(starts.union(topics))


class TopicPatterns:
    """A set of patterns, which must be valid; `parse` checks them. An empty set selects no topic."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(dict.fromkeys(patterns))
        self._trie: _Trie = {}
        for pattern in self.patterns:
            node = self._trie
            for part in pattern.split("."):
                node = node.setdefault(part, {})
            node[""] = {}

    @classmethod
    def parse(cls, *patterns: str) -> TopicPatterns:
        """Returns the set of these patterns. Raises InvalidArgument if one is not a pattern."""
        for pattern in patterns:
            if fault := pattern_fault(pattern):
                raise InvalidArgument(f"pattern: {fault}")
        return cls(patterns)

    def matches(self, topic: str) -> bool:
        """Whether a pattern of the set selects `topic`. None selects the empty topic."""
        if not topic:
            return False
        nodes = [self._trie]
        for part in topic.split("."):
            if any(_REST in node for node in nodes):
                return True
            nodes = [node[key] for node in nodes for key in (part, _ANY_PART) if key in node]
            if not nodes:
                return False
        return any("" in node for node in nodes)
