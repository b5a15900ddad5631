"""An operator's session over three real nodes: join, a stale peer that recovers, filter, details, direct
message, trace, a setting changed and saved, leave."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.tui.runs import Bench
from tests.tui.session import play


@pytest.mark.asyncio
async def test_an_operator_does_a_days_work(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    frames = await play(tmp_path, bench)
    assert [int(step.split()[0]) for step in frames] == list(range(1, 13))
    pictures = {step: words_of(picture) for step, picture in frames.items()}
    assert "◐silent" in pictures["3 bob is stale"]
    assert "◐silent" not in pictures["4 bob is back"]
    assert "deployofapi" in pictures["5 both spoke"]
    assert "deployofapi" not in pictures["6 filtered"]
    assert "2of2" in pictures["9 traced"]
    assert len(set(frames.values())) == len(frames)


def words_of(picture: str) -> str:
    """What an exported SVG says, without blanks."""
    texts = ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")
    return re.sub(r"\s", "", "".join(each.text or "" for each in texts))
