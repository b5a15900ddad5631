"""Writes the manual pages in docs/man/: ``python -m tests.tui.make_man_pages [DIRECTORY]``.

Their text is the help of the commands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click_man.core import generate_man_page

from grapevine_tui import __version__
from grapevine_tui.cli.main import PROGRAM, ROOT_COMMAND
from tests.sources import ROOT

DIRECTORY = ROOT / "docs" / "man"
DATE = "2026-11-29"  # of the text, so that the pages are the same on every day


def pages() -> Iterator[tuple[str, str]]:
    """The name and the text of each page: one for the program, one for each command."""
    yield from _pages_of(ROOT_COMMAND, PROGRAM, None)


def _pages_of(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[str, str]]:
    context = click.Context(command, info_name=name, parent=parent)
    commands = {}
    if isinstance(command, click.Group):
        commands = {
            each: found
            for each in command.list_commands(context)
            if (found := command.get_command(context, each)) is not None
        }
        whole = click.Group(  # with the commands that are imported only when they are asked for
            name, commands, params=command.params, help=command.help, invoke_without_command=True
        )
        context = click.Context(whole, info_name=name, parent=parent)
    text = generate_man_page(context, version=__version__, date=DATE)
    yield context.command_path.replace(" ", "-") + ".1", text.rstrip() + "\n"
    for each, found in commands.items():
        yield from _pages_of(found, each, context)


if __name__ == "__main__":
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DIRECTORY
    directory.mkdir(exist_ok=True)
    for page, text in pages():
        (directory / page).write_text(text, encoding="utf-8")
