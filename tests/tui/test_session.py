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
    texts = {step: text_of_svg(screenshot) for step, screenshot in frames.items()}
    assert "◐silent" in texts["3 bob is stale"]
    assert "◐silent" not in texts["4 bob is back"]
    assert "deployofapi" in texts["5 messages"]
    assert "deployofapi" not in texts["6 filtered"]
    assert "2of2" in texts["9 traced"]
    assert len(set(frames.values())) == len(frames)


def text_of_svg(screenshot: str) -> str:
    """Returns the text of an exported SVG, without blanks."""
    texts = ElementTree.fromstring(screenshot).iter("{http://www.w3.org/2000/svg}text")
    return re.sub(r"\s", "", "".join(each.text or "" for each in texts))
