"""Tags: names and values with which a member describes itself.

Invariants: what is accepted here fits the keyed state, in which tags are entries under `TAG_PREFIX`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

TAG_PREFIX: Final = "tag/"
MAX_TAGS: Final = 16
MAX_TAG_NAME_BYTES: Final = 32
MAX_TAG_VALUE_BYTES: Final = 128
MAX_TAGS_BYTES: Final = 1024


def tags_fault(tags: Mapping[Any, Any]) -> str:
    """Returns why `tags` cannot be the tags of a member; empty if they can."""
    if len(tags) > MAX_TAGS:
        return f"more than {MAX_TAGS} tags"
    total = 0
    for name, value in tags.items():
        if not isinstance(name, str) or not isinstance(value, str):
            return "expected text as names and values"
        try:
            sizes = len(name.encode()), len(value.encode())
        except UnicodeEncodeError:
            return f"{name[:40]!r} is not valid Unicode"
        if not 1 <= sizes[0] <= MAX_TAG_NAME_BYTES or "=" in name:
            return f"{name[:40]!r}: a name has 1 to {MAX_TAG_NAME_BYTES} bytes and no ="
        if sizes[1] > MAX_TAG_VALUE_BYTES:
            return f"{name!r}: a value has at most {MAX_TAG_VALUE_BYTES} bytes"
        total += sum(sizes)
    return f"more than {MAX_TAGS_BYTES:,} bytes in all" if total > MAX_TAGS_BYTES else ""


def includes(tags: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether `tags` contain all of `wanted`, with the same values."""
    return all(tags.get(name) == value for name, value in wanted.items())


def parse_tags(texts: Iterable[str]) -> dict[str, str]:
    """Returns the tags of ``name=value`` texts. Raises ValueError."""
    tags: dict[str, str] = {}
    for text in texts:
        if not isinstance(text, str) or "=" not in text:
            raise ValueError(f"expected name=value, got {text!r:.80}")
        name, _, value = text.partition("=")
        if name in tags:
            raise ValueError(f"{name[:40]!r} is given twice")
        tags[name] = value
    if fault := tags_fault(tags):
        raise ValueError(fault)
    return tags


def tag_texts(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Returns `tags` as ``name=value`` each, sorted; the inverse of `parse_tags`."""
    return tuple(f"{name}={value}" for name, value in sorted(tags.items()))
