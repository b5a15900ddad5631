"""Pages, examples and names in the code are in US English, in the words of docs/glossary.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.sources import ROOT, tree_of

BRITISH: Final = (
    r"dial(?:led|ling)|neighbour\w*|colour\w*|behaviour\w*|favour\w*|cancelled|optimis\w+|minimis\w+"
    r"|recognis\w+|synchronis\w+|serialis\w+|centre|licence"
)
# Words that this project once used for terms of the field; never right, in prose or in a name.
DIALECT: Final = (
    r"whoever|whomever|whom|anew|knock(?:s|ed|ing)?|untaken|foretold|tidings|hearsay|somebody|everybody"
    r"|anybody|good-?bye|politely|demonstrations?|unheeded|errands?|teller"
)
# Inverted or archaic phrases, and persons where a node is meant.
PHRASES: Final = (
    r"so many|so much|is told|was told|are told|told of|what comes of|holds? \w+ for dead|gone bad"
    r"|who(?:se)? is (?:linked|silent)|(?:node|peer|member)s? who|he|she|his|him|himself|hers"
)
WORDS: Final = re.compile(rf"\b(?:{BRITISH}|{DIALECT}|{PHRASES})\b", re.IGNORECASE)

# In a name each of these stood for a term: broadcast, publish, send; source; outsider, malicious member;
# rate limit; gap; member update; directory; screenshot; batch; limit; dropped on send; update gossip.
NAME_WORDS: Final = re.compile(
    rf"{BRITISH}|{DIALECT}|told|said|saying|talk|folders?|strangers?|liars?|allowances?|holes?"
    r"|opinions?|pictures?|bundles?|ceilings?|unsent|news|shorts|lookouts?|roads?|who"
)
TERMS: Final = {
    "BLACK_HOLE_LOSSES": "black hole detection, RFC 8899",
    "BLACK_HOLE_ACKS": "black hole detection, RFC 8899",
    "test_losses_in_several_acks_are_a_black_hole_and_in_one_an_overflow": "RFC 8899",
    **dict.fromkeys(
        ("HolePunching", "hole_punching", "_hole_punching", "test_hole_punching"),
        "hole punching, RFC 5128",
    ),
    "_PICTURES": "Control Pictures, a block of Unicode",
}
CANCELLED: Final = frozenset({"cancelled", "canceled"})  # names of asyncio and Textual
PART: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def files() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")
    for directory in ("examples", "config", ".ci"):
        yield from (each for each in (ROOT / directory).iterdir() if each.is_file())
    yield ROOT / ".env.example"


def sources() -> Iterator[Path]:
    for directory in ("grapevine_proto", "grapevine_tui", "tests", "examples"):
        yield from sorted((ROOT / directory).rglob("*.py"))


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields the names that a module defines, with their lines: functions, classes, parameters, variables
    and attributes that it assigns."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def banned_words(name: str) -> list[str]:
    words = {each.lower() for each in PART.findall(name)} - CANCELLED
    return [each for each in sorted(words) if NAME_WORDS.fullmatch(each)]


def test_no_file_for_readers_uses_british_spelling_or_the_old_dialect() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in WORDS.finditer(line)
    ]
    assert found == []


def test_no_name_in_the_code_contains_a_word_of_the_old_dialect() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}: {', '.join(words)}"
        for path in sources()
        for line, name in [(1, path.stem), *names_in(tree_of(path))]
        if name not in TERMS and (words := banned_words(name))
    ]
    assert found == []


def test_names_are_split_into_words() -> None:
    assert banned_words("HearsayTable") == ["hearsay"]
    assert banned_words("_untaken_S") == ["untaken"]
    assert banned_words("test_a_neighbour_is_told") == ["neighbour", "told"]
    assert banned_words("is_cancelled") == banned_words("threshold_s") == []
