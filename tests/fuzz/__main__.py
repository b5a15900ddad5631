"""Fuzz one door by coverage: ``python -m tests.fuzz members --seconds 600``.

Needs atheris (``pip install '.[fuzz]'``). What it finds is written to ``fuzz/``, and
``python -m tests.fuzz members FILE`` tries that file again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

FOUND = Path("fuzz")


@click.command()
@click.argument("name")
@click.argument("again", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--seconds", default=60, show_default=True, help="how long to look")
def main(name: str, again: Path | None, seconds: int) -> None:
    """Look for input that breaks the door NAME; with a file, try that alone."""
    import atheris

    with atheris.instrument_imports(include=["grapevine_proto", "grapevine_tui"]):
        from tests.fuzz.targets import TARGETS
    if name not in TARGETS:
        raise click.BadParameter(f"{name} (there are {', '.join(TARGETS)})", param_hint="NAME")
    target = TARGETS[name]
    if again is not None:
        target.check(again.read_bytes())
        click.echo(f"{again}: nothing wrong")
        return
    corpus = FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={FOUND}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
