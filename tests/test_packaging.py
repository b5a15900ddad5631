"""Two distributions from one tree: the application with the library, and the library alone."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from typing import Any

import pytest

import grapevine_proto
import grapevine_tui
from tests.sources import ROOT, tree_of

DIRECTORIES = {"grapevine-tui": ROOT, "grapevine-proto": ROOT / "grapevine_proto"}


def project_of(name: str) -> dict[str, Any]:
    with (DIRECTORIES[name] / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    assert project["name"] == name
    return project


def names_of(requirements: list[str]) -> dict[str, str]:
    """Each requirement by its name."""
    return {re.split(r"[>=;\s\[]", each)[0].lower(): each for each in requirements}


def test_library_and_application_have_one_version() -> None:
    assert grapevine_proto.__version__ == grapevine_tui.__version__


@pytest.mark.parametrize("name", DIRECTORIES)
def test_the_long_description_has_no_link_that_leads_nowhere(name: str) -> None:
    text = (DIRECTORIES[name] / project_of(name)["readme"]).read_text()
    assert re.findall(r"\]\((?!https://)", text) == []


@pytest.mark.parametrize("license_file", ["LICENSE-MIT", "LICENSE-APACHE"])
def test_the_library_alone_has_the_same_licenses(license_file: str) -> None:
    assert (DIRECTORIES["grapevine-proto"] / license_file).read_bytes() == (
        ROOT / license_file
    ).read_bytes()


def test_the_library_alone_asks_for_what_it_imports_as_the_application_does() -> None:
    imported: set[str] = set()
    for path in (ROOT / "grapevine_proto").rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                imported |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"grapevine_proto"}
    distribution = {"nacl": "pynacl", "dns": "dnspython"}
    wanted = {distribution.get(each, each.replace("_", "-")) for each in foreign}
    wanted -= {"mypy-extensions"}  # read by mypyc; there is a substitute where it is missing
    alone = names_of(project_of("grapevine-proto")["dependencies"])
    extras = project_of("grapevine-proto")["optional-dependencies"]
    optional = names_of([each for name in ("dns", "mdns", "nat") for each in extras[name]])
    assert set(alone) | set(optional) == wanted
    tui_extras = project_of("grapevine-tui")["optional-dependencies"]
    assert all(tui_extras[name] == extras[name] for name in ("dns", "mdns", "nat"))
    both = names_of(project_of("grapevine-tui")["dependencies"])
    assert {name: both[name].split(";")[0] for name in alone} == alone


@pytest.mark.parametrize("name", ["asyncio-dgram", "textual"])
def test_what_is_built_on_beyond_its_promises_has_an_upper_bound(name: str) -> None:
    assert ",<" in names_of(project_of("grapevine-tui")["dependencies"])[name]


def test_the_screenshots_of_pages_and_readme_lie_where_their_links_lead() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(
            r"""(?:\(|src(?:set)?=")([\w./-]*screenshots/[\w-]+\.svg)""", page.read_text()
        )
    ]
    assert len(links) > 20
    assert [each for each in links if not each.is_file()] == []
    assert {each.parent for each in links} == {ROOT / "screenshots"}
