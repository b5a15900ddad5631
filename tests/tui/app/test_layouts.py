"""Boxes of the main screen: presets, boxes on and off, what is remembered, and that no key is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grapevine_tui.app.screens.layout import ALL, BOXES, PANELS, PRESETS, Choice, choose_layout
from grapevine_tui.config.preferences import Preferences
from grapevine_tui.control import commands
from tests.tui.fake_host import FakeHost, FakeSettings
from tests.tui.stage import Stage, staged
from tests.tui.values import a_peer, received


def shown(stage: Stage) -> set[str]:
    return {name for name in BOXES if stage.main.query_one(f"#{name}").display}


def has_compose_box(stage: Stage) -> bool:
    return bool(stage.main.compose_box.display)


def test_the_words_of_the_commands_are_those_of_the_screen() -> None:
    assert tuple(PRESETS) == commands.LAYOUTS
    assert {"log" if each == "messages" else each for each in commands.BOXES} == set(BOXES)


@given(
    st.integers(1, 300),
    st.integers(1, 100),
    st.frozensets(st.sampled_from(BOXES), min_size=1).filter(lambda boxes: boxes & set(PANELS)),
    st.data(),
)
def test_every_choice_has_a_layout_at_every_size_that_shows_the_active_panel(
    width: int, height: int, boxes: frozenset[str], data: st.DataObject
) -> None:
    active = data.draw(st.sampled_from(sorted(boxes & set(PANELS))))
    css_class, visible = choose_layout(width, height, active, "", Choice("", boxes))
    if css_class != "-tiny":
        assert active in visible
        assert visible & set(BOXES) <= boxes | {active}


@given(st.lists(st.sampled_from(BOXES)))
def test_one_panel_always_stays(switched: list[str]) -> None:
    choice = ALL
    for name in switched:
        choice = choice.without_box(name) if name in choice.boxes else choice.with_box(name)
        assert choice.boxes & set(PANELS)


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [(200, 60), (120, 36), (80, 24), (40, 12), (20, 5)])
async def test_each_preset_shows_its_boxes_and_the_key_goes_through_them(
    size: tuple[int, int],
) -> None:
    host = FakeHost()
    host.peers = [a_peer(number, f"node-{number}") for number in range(1, 9)]
    async with staged(host, size=size) as stage:
        host.happen(*(received(1, n) for n in range(1, 30)))
        for preset in ("chat", "traffic", "repair", "wall", "all"):
            await stage.press("escape", "V")
            assert shown(stage) <= set(PRESETS[preset].boxes)
            if size[0] >= 120:
                assert shown(stage) == PRESETS[preset].boxes
            has_frame = size[0] >= 40 and preset != "wall"
            assert stage.main.compose_box.display is has_frame
            assert stage.main.focused is not None


@pytest.mark.asyncio
async def test_the_room_of_a_box_that_is_off_is_used() -> None:
    host = FakeHost()
    host.peers = [a_peer(1, "bob")]
    async with staged(host, size=(200, 60)) as stage:
        await stage.submit("/layout chat")
        assert stage.main.log_view.outer_size.width == 200
        await stage.submit("/layout traffic")
        assert stage.main.traffic.outer_size.height > 7
        for name in ("peers", "messages"):
            await stage.submit(f"/box {name}")
        assert stage.main.traffic.outer_size.width == 200
        assert shown(stage) == {"traffic", "rates"}
        await stage.submit("/box rates")
        assert "one panel must stay" in stage.text
        await stage.submit("/layout")
        assert shown(stage) == set(BOXES)
        await stage.submit("/layout chatt")
        assert "did you mean chat?" in stage.text


@pytest.mark.asyncio
async def test_the_key_of_a_panel_that_is_off_switches_it_on() -> None:
    async with staged(size=(140, 40)) as stage:
        await stage.submit("/layout chat")
        await stage.press("escape", "3")
        assert shown(stage) == {"peers", "log", "rates"}
        assert stage.focused == "rates"
        await stage.press("tab")
        assert stage.focused == "peers"  # not the rounds, which are off
        await stage.press("V")
        assert shown(stage) == set(BOXES)


@pytest.mark.asyncio
async def test_the_wall_has_no_compose_box_until_something_is_typed() -> None:
    for keys in (("i",), ("c",), ("t", "plus")):
        async with staged() as stage:
            await stage.submit("/layout wall")
            assert not has_compose_box(stage)
            assert not stage.main.key_footer.display
            await stage.press("2", "slash")
            assert stage.main.filter_bar.display
            await stage.press("escape", *keys)
            assert has_compose_box(stage)
            assert stage.focused == "draft"


@pytest.mark.asyncio
async def test_boxes_are_remembered_beside_the_theme(tmp_path: Path) -> None:
    settings = FakeSettings(preferences_file=tmp_path / "app.json")
    async with staged(settings=settings) as stage:
        stage.app.theme = "nord"
        await stage.submit("/layout repair")
        await stage.submit("/box messages")
    async with staged(settings=settings) as stage:
        assert shown(stage) == {"peers", "traffic", "rounds"}
        assert stage.app.theme == "nord"
        assert stage.focused == "peers"
    preferences = Preferences(tmp_path / "app.json")
    assert preferences.load_layout() == ("repair", frozenset({"peers", "traffic", "rounds"}))


@pytest.mark.parametrize(
    "saved", ["{}", '{"boxes": 3}', '{"boxes": ["x"]}', '{"boxes": [["peers"], 4]}']
)
@pytest.mark.asyncio
async def test_a_damaged_choice_shows_all_boxes(tmp_path: Path, saved: str) -> None:
    path = tmp_path / "app.json"
    path.write_text(saved)
    async with staged(settings=FakeSettings(preferences_file=path)) as stage:
        assert shown(stage) == set(BOXES)
