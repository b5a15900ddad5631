"""What saving the state costs: all of it, and what changed in a second.

    python -m tests.benchmarks.bench_state [--origins 16384] [--gaps 8]

The event loop computes what to save, a thread encodes and writes it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from grapevine_proto import ClusterKey, NodeConfig
from grapevine_proto.config.sections import LimitsConfig
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.overlay.store.message_store import SavedStream
from grapevine_proto.runtime.state_encoding import StateChanges
from grapevine_proto.runtime.state_file import StateDirectory

CHANGED = (1, 100, 1000)  # streams that change between two saves


def filled_engine(origins: int, gaps: int) -> Engine:
    """An engine that knows a stream of each of `origins`, with `gaps` gaps."""
    rng = random.Random(1)
    streams = tuple(
        SavedStream(
            PeerId(rng.randbytes(32)),
            1_700_000_000,
            1_000_000,
            tuple((10 * number + 1, 10 * number + 3) for number in range(gaps)),
            60.0,
        )
        for _ in range(origins)
    )
    return Engine(
        NodeConfig(keys=(ClusterKey.generate(),), limits=LimitsConfig(origins=origins)),
        NodeState(rng.randbytes(32), 1_700_000_000, streams),
        address=Address("127.0.0.1", 1),
        rng=rng,
        entropy=rng.randbytes,
        now=0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--origins", type=int, default=16_384)
    parser.add_argument("--gaps", type=int, default=8)
    options = parser.parse_args()
    engine = filled_engine(options.origins, options.gaps)
    streams = engine.tracked_streams()
    with tempfile.TemporaryDirectory() as temporary:
        directory = StateDirectory(Path(temporary) / "node")
        directory.load(time.time())
        print(f"{options.origins} streams with {options.gaps} gaps each")
        print(f"{'saved':>16} {'loop ms':>9} {'thread ms':>10} {'bytes':>12}")
        began = time.perf_counter()
        state = engine.snapshot(1.0)
        computed = time.perf_counter()
        directory.save(state)
        done = time.perf_counter()
        report("everything", began, computed, done, (directory.path / "state").stat().st_size)
        size_before = 0
        for changed in CHANGED:
            began = time.perf_counter()
            state = engine.snapshot(2.0, (), streams[:changed])
            computed = time.perf_counter()
            directory.append(StateChanges(replace(state, entries=()), 1.0))
            done = time.perf_counter()
            size = (directory.path / "journal").stat().st_size
            report(f"{changed} streams", began, computed, done, size - size_before)
            size_before = size
        directory.close()


def report(name: str, began: float, computed: float, done: float, size_bytes: int) -> None:
    loop_ms, thread_ms = 1e3 * (computed - began), 1e3 * (done - computed)
    print(f"{name:>16} {loop_ms:9.1f} {thread_ms:10.1f} {size_bytes:12,}")


if __name__ == "__main__":
    main()
