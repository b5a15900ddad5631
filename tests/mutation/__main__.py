"""Measure what the tests of modules find: ``python -m tests.mutation overlay/peers --sample 20 --seed 1``.

Without MODULE, all modules of the core are mutated. Prints each mutant that no test found, and how many were
found per module.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tests.mutation.own_tests import modules, own_tests
from tests.mutation.runner import failing_unmutated, run_mutants

if TYPE_CHECKING:
    from tests.mutation.mutants import Mutant


@click.command()
@click.argument("names", metavar="[MODULE]...", nargs=-1)
@click.option("--sample", type=click.IntRange(1), help="Number of mutants [default: all]")
@click.option("--seed", default="1", show_default=True, help="Any text; chooses the sample")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count(), show_default=True)
@click.option(
    "--fail-under", type=click.IntRange(0, 100), default=0, help="Exit with 1 below this percentage"
)
@click.option("--baseline/--no-baseline", default=True, help="First run the tests unmutated")
def main(
    names: tuple[str, ...],
    sample: int | None,
    seed: str,
    jobs: int,
    fail_under: int,
    baseline: bool,
) -> None:
    """Run the tests that belong to each MODULE over mutants of it."""
    chosen = _sample([_module(name) for name in names] or list(modules()), sample, seed)
    if not chosen:
        raise click.UsageError("no mutants: these modules have nothing to change")
    total: Counter[str] = Counter(mutant.module for mutant in chosen)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutation-") as directory:
        if baseline and (failing := failing_unmutated(sorted(total), Path(directory))):
            raise click.ClickException(f"tests fail without any mutation: {', '.join(failing)}")
        for mutant, is_found in run_mutants(chosen, jobs, Path(directory)):
            found[mutant.module] += is_found
            if not is_found:
                _print_survivor(mutant)
    for module in sorted(total):
        click.echo(f"{found[module]:4} of {total[module]:4} found  {module}")
    percent = 100 * found.total() / total.total()
    click.echo(f"{found.total():4} of {total.total():4} found  ({percent:.0f} %, seed {seed})")
    sys.exit(percent < fail_under)


def _module(name: str) -> str:
    """The name of a module; accepts its path as well."""
    module = name.removeprefix("grapevine_proto/").removesuffix(".py")
    if module not in modules():
        raise click.BadParameter(f"{name}: expected a module such as overlay/peers")
    if not own_tests(module):
        raise click.BadParameter(f"{name} has no tests of its own")
    return module


def _sample(names: list[str], size: int | None, seed: str) -> list[Mutant]:
    """The mutants of these modules that come first under `seed`, without the accepted ones."""
    from tests.mutation.mutants import accepted, mutants_of  # imports cosmic-ray; --help does not

    equivalent = accepted()
    ranked = sorted(
        (mutant for name in names for mutant in mutants_of(name)),
        key=lambda mutant: mutant.rank(seed),
    )
    chosen: list[Mutant] = []
    for mutant in ranked:
        if size is not None and len(chosen) == size:
            break
        if (mutant.module, mutant.line, mutant.mutated()[1]) not in equivalent:
            chosen.append(mutant)
    return chosen


def _print_survivor(mutant: Mutant) -> None:
    click.echo(f"grapevine_proto/{mutant.module}.py:{mutant.line_number}: not found")
    click.echo(f"  - {mutant.line}")
    click.echo(f"  + {mutant.mutated()[1]}")


if __name__ == "__main__":
    main()
