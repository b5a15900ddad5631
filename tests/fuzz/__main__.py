"""Fuzz one target by coverage: ``python -m tests.fuzz members --seconds 600``.

``python -m tests.fuzz intent --seconds 600`` runs a malicious member that follows a plan
(`intent`), by seeds and not by coverage; with a number in place of FILE, that seed again.

The other targets need atheris (``pip install '.[fuzz]'``). Findings are written to ``fuzz/``, and
``python -m tests.fuzz members FILE`` runs that file again.
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
@click.option("--seconds", default=60, show_default=True, help="duration of the search")
def main(name: str, again: str | None, seconds: int) -> None:
    """Search for input that breaks the target NAME; with a file, check only that."""
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
        click.echo(f"{again}: no violation")
        return
    corpus = FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={FOUND}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.check)
    atheris.Fuzz()


def _play(again: str | None, seconds: int) -> None:
    """Run attempts of a malicious member until one fails or the time is over."""
    from grapevine_proto import compiled
    from tests.fuzz.intent import play

    if compiled == "yes":  # the malicious member has parts of its core replaced
        raise click.ClickException("the core is compiled: set GRAPEVINE_INTERPRETED=1")
    if again is not None and not again.isdecimal():
        raise click.BadParameter(f"{again} is no seed", param_hint="AGAIN")
    ends_at = time.monotonic() + seconds
    seed = int(again) if again is not None else 0
    while True:
        verdict = play(seed)
        for violation in verdict.violations:
            click.echo(f"seed {seed} ({', '.join(verdict.attacks)}): {violation}")
        if verdict.violations:
            sys.exit(1)
        if again is not None or time.monotonic() >= ends_at:
            break
        seed += 1
    click.echo(f"no violation up to seed {seed}")


if __name__ == "__main__":
    main()
