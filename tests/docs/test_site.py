"""The documentation site and the form of its pages: navigation, API reference, decision records."""

from __future__ import annotations

import re

import yaml

import grapevine_proto
import grapevine_proto.sim
from tests.sources import ROOT

DOCS = ROOT / "docs"


def pages_in(navigation: object) -> list[str]:
    """The paths of a `nav` in .mkdocs.yml, however deep they stand."""
    match navigation:
        case str():
            return [navigation]
        case dict():
            return [page for value in navigation.values() for page in pages_in(value)]
        case list():
            return [page for item in navigation for page in pages_in(item)]
    raise AssertionError(navigation)


def test_the_navigation_has_every_page_once() -> None:
    config = yaml.safe_load((ROOT / ".mkdocs.yml").read_text())
    assert sorted(pages_in(config["nav"])) == sorted(
        path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
    )


def test_the_site_loads_no_font_from_another_host() -> None:
    config = yaml.safe_load((ROOT / ".mkdocs.yml").read_text())
    assert config["theme"]["font"] is False


def test_the_api_reference_has_every_public_name() -> None:
    page = (DOCS / "reference" / "api.md").read_text()
    named = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(
        [
            f"grapevine_proto.{name}"
            for name in grapevine_proto.__all__
            if name not in ("__version__", "compiled")
        ]
        + [f"grapevine_proto.sim.{name}" for name in grapevine_proto.sim.__all__]
    )


def test_decision_records_are_numbered_without_gaps_and_have_one_form() -> None:
    paths = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    index = (DOCS / "decisions" / "index.md").read_text()
    for number, path in enumerate(paths, 1):
        text = path.read_text()
        assert path.name.startswith(f"{number:04}-"), path.name
        assert text.startswith(f"# {number}. "), path.name
        heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert heads == ["Context", "Decision", "Consequences"], path.name
        assert "\n**Status:** " in text, path.name
        title = text.splitlines()[0].removeprefix(f"# {number}. ")
        assert f"| {number} | [{title}]({path.name}) |" in index, path.name


def test_the_architecture_page_lists_every_directory() -> None:
    page = (DOCS / "explanation" / "architecture.md").read_text()
    for package in ("grapevine_proto", "grapevine_tui"):
        directories = {path.parent for path in (ROOT / package).rglob("*.py")}
        for directory in directories - {ROOT / package}:
            name = directory.relative_to(ROOT / package).as_posix()
            assert f"| `{name}/` |" in page, f"{package}/{name}"
