"""Topics: names of subjects, as in NATS, and patterns that select them.

A topic is up to eight tokens of ``a-z``, ``0-9``, ``_`` and ``-``, joined by dots: ``deploy.web.eu``. In a
pattern the token ``*`` stands for any one token, and ``>`` at the end for one or more: ``deploy.*.eu``,
``deploy.>``.

Invariants:

- A topic is plain ASCII of at most `MAX_TOPIC_BYTES`, so it needs no escaping and is one label everywhere.
- Matching costs at most two branches per token, however many patterns there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from grapevine_proto.errors import InvalidArgument

MAX_TOPIC_BYTES: Final = 64
MAX_TOPIC_TOKENS: Final = 8
MAX_PATTERNS: Final = 256  # per node

_TOKEN: Final = re.compile(r"[a-z0-9_-]+", re.ASCII)
_ANY_TOKEN: Final = "*"
_REST: Final = ">"

_Trie: TypeAlias = dict[str, "_Trie"]  # the empty key marks the end of a pattern


def topic_fault(text: object) -> str:
    """What is wrong with `text` as the name of a topic; empty if nothing is."""
    return _fault(text, is_pattern=False)


def pattern_fault(text: object) -> str:
    """What is wrong with `text` as a pattern of topics; empty if nothing is. A topic is a pattern that
    selects itself."""
    return _fault(text, is_pattern=True)


def _fault(text: object, *, is_pattern: bool) -> str:
    if not isinstance(text, str):
        return f"expected text, got {type(text).__name__}"
    shown = repr(text[:80])
    if len(text) > MAX_TOPIC_BYTES:
        return f"{shown} is longer than {MAX_TOPIC_BYTES} bytes"
    tokens = text.split(".")
    if len(tokens) > MAX_TOPIC_TOKENS:
        return f"{shown} has more than {MAX_TOPIC_TOKENS} parts"
    if is_pattern and tokens[-1] == _REST:
        tokens.pop()
    for token in tokens:
        if _TOKEN.fullmatch(token) or (is_pattern and token == _ANY_TOKEN):
            continue
        if not token:
            return f"{shown} is empty, or has an empty part between dots"
        if token in (_ANY_TOKEN, _REST):
            problem = "may only be the last part" if is_pattern else "belongs in a pattern"
            return f"{token} in {shown} {problem}"
        return f"{shown} has characters other than a-z, 0-9, _ and -"
    return ""


def topic_patterns(topics: Iterable[str]) -> list[str]:
    """Patterns that select some of `topics`: each of them, and all that begin with the same token."""
    starts = {f"{each.partition('.')[0]}.>" for each in topics if "." in each}
    return sorted(starts.union(topics))


class TopicPatterns:
    """A set of patterns; an empty one selects no topic. `parse` checks patterns that a user gave."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns = tuple(dict.fromkeys(patterns))
        self._trie: _Trie = {}
        for pattern in self.patterns:
            node = self._trie
            for token in pattern.split("."):
                node = node.setdefault(token, {})
            node[""] = {}

    @classmethod
    def parse(cls, *patterns: str) -> TopicPatterns:
        """Returns the set of these patterns. Raises InvalidArgument if one is no pattern."""
        for pattern in patterns:
            if fault := pattern_fault(pattern):
                raise InvalidArgument(f"pattern: {fault}")
        return cls(patterns)

    def matches(self, topic: str) -> bool:
        """Whether a pattern selects `topic`; none selects the empty one, of a message without a topic."""
        if not topic:
            return False
        nodes = [self._trie]
        for token in topic.split("."):
            if any(_REST in node for node in nodes):
                return True
            nodes = [node[key] for node in nodes for key in (token, _ANY_TOKEN) if key in node]
            if not nodes:
                return False
        return any("" in node for node in nodes)
