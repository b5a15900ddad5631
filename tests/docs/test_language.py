"""Documentation, examples and configuration are in US English, in the words of docs/glossary.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BRITISH: Final = (
    r"dial(?:led|ling)|neighbour\w*|colour\w*|behaviour\w*|favour\w*|cancelled|optimis\w+|minimis\w+"
    r"|recognis\w+|synchronis\w+|serialis\w+|centre|licence"
)
# Words that this project once used for terms of the field.
DIALECT: Final = (
    r"whoever|whom|anew|knock(?:s|ed|ing)?|untaken|foretold|tidings|hearsay|so many|so much|is told"
    r"|was told|told of|somebody|good-bye|politely"
)
WORDS: Final = re.compile(rf"\b(?:{BRITISH}|{DIALECT})\b", re.IGNORECASE)


def files() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")
    for directory in ("examples", "config", ".ci"):
        yield from (each for each in (ROOT / directory).iterdir() if each.is_file())
    yield ROOT / ".env.example"


def test_no_file_for_readers_uses_british_spelling_or_the_old_dialect() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in WORDS.finditer(line)
    ]
    assert found == []
