"""Fuzz one door by coverage: ``python -m tests.fuzz members --seconds 600``.

``python -m tests.fuzz intent --seconds 600`` plays a member that lies with intent (`intent`), by seeds and
not by coverage; with a number in place of FILE, that seed again.

The others need atheris (``pip install '.[fuzz]'``). What it finds is written to ``fuzz/``, and
``python -m tests.fuzz members FILE`` tries that file again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

FOUND = Path("fuzz")


@click.command()
@click.argument("name")
@click.argument("again", required=False)
@click.option("--seconds", default=60, show_default=True, help="how long to look")
def main(name: str, again: str | None, seconds: int) -> None:
    """Look for input that breaks the door NAME; with a file, try that alone."""
    if name == "intent":
        _play(again, seconds)
        return
    import atheris

    with atheris.instrument_imports(include=["grapevine_proto", "grapevine_tui"]):
        from tests.fuzz.targets import TARGETS
    if name not in TARGETS:
        raise click.BadParameter(
            f"{name} (there are intent, {', '.join(TARGETS)})", param_hint="NAME"
        )
    target = TARGETS[name]
    if again is not None:
        target.check(Path(again).read_bytes())
        click.echo(f"{again}: nothing wrong")
        return
    corpus = FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={FOUND}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.check)
    atheris.Fuzz()


def _play(again: str | None, seconds: int) -> None:
    """Attempts of a liar, until one is wrong or the time is over."""
    from tests.fuzz.intent import play

    if again is not None and not again.isdecimal():
        raise click.BadParameter(f"{again} is no seed", param_hint="AGAIN")
    ends_at = time.monotonic() + seconds
    seed = int(again) if again is not None else 0
    while True:
        verdict = play(seed)
        for wrong in verdict.wrongs:
            click.echo(f"seed {seed} ({', '.join(verdict.lies)}): {wrong}")
        if verdict.wrongs:
            sys.exit(1)
        if again is not None or time.monotonic() >= ends_at:
            break
        seed += 1
    click.echo(f"nothing wrong up to seed {seed}")


if __name__ == "__main__":
    main()
