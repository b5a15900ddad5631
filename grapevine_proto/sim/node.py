"""One node of a simulation: its current engine, its clock, its disk and its deliveries.

Invariants:

- Its clock differs from every other node's and never goes back; a restart resets it.
- A crash leaves what was on the disk: the last save, at most one second old, or the one before if
  that was still being written; under the epoch that was saved before anything was sent.
- Deliveries are recorded over all runs of the node, so that a test can check *exactly once*.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.identity import SEED_BYTES
from grapevine_proto.engine import Engine, NodeState
from grapevine_proto.events import Answer, Message, Stats, Via
from grapevine_proto.ids import Address, MessageId, PeerId

START_UNIX_S: Final = 1_700_000_000  # wall clock at the start of a simulation
UPTIME_RANGE_S: Final = (1_000.0, 1_000_000.0)  # uptime of a machine at the start of a node
DISK_WRITE_S: Final = 0.1  # until a save is complete
DEADLINE_TOLERANCE_S: Final = 1e-6  # treats a deadline as due: clock offsets cost precision


@dataclass(slots=True)
class Delivery:
    """Delivery of one message to one node: its first time (virtual seconds), and the number of times."""

    at: float
    hops: int
    via: Via
    count: int = 1


class SimulatedNode:
    """One node of a simulation. Only `Simulation` drives it; its attributes may be read."""

    def __init__(self, number: int, address: Address, config: NodeConfig, seed: str) -> None:
        self.number = number
        self.address = address
        self.config = config
        self.deliveries: dict[MessageId, Delivery] = {}
        self.answers: dict[MessageId, list[Answer]] = {}  # to its queries, in order
        self.engine: Engine | None = None
        self.receive: Callable[[bytes, Address], None] | None = (
            None  # of a node that runs elsewhere
        )
        self.peer_id: PeerId | None = None
        self.stop_reason = ""  # why the engine stopped the node
        self.is_leaving = False
        self.suspended_at: float | None = None
        self.due_at = math.inf  # deadline of its engine after the latest step, by its own clock
        self.wake_at = math.inf  # virtual time of its one live wake-up in the queue
        self.is_save_scheduled = False
        self.address_changes = 0
        self.previous_duplicates = 0  # of earlier runs
        self.lag_s = 0.0  # delay of everything it does
        self.clock_rate = 1.0  # seconds of its clock per virtual second, from its next run on
        self.clock_error_s = 0.0  # of its wall clock, from its next run on
        self._seed = seed
        self.run_count = 0
        self._offset_s = 0.0
        self._rate = 1.0
        self._clock = 0.0
        self._saved: NodeState | None = None
        self._previous_save: NodeState | None = None  # remains if the write of `_saved` is torn
        self.saved_at = -math.inf
        self._saved_entries_version = 0
        self._saved_version = -1

    @property
    def is_running(self) -> bool:
        """Whether it is up."""
        return self.engine is not None

    def start(self, at: float, *, lose_state: bool = False) -> Engine:
        """Starts a run at virtual time `at`, from the disk or from nothing."""
        self.run_count += 1
        seed = f"{self._seed}/{self.run_count}"
        rng = random.Random(seed)
        self._rate = self.clock_rate
        self._offset_s = rng.uniform(*UPTIME_RANGE_S)
        self._clock = 0.0
        saved = self._saved
        if saved is None or lose_state:
            identity = random.Random(f"{seed}/identity").randbytes(SEED_BYTES)
            saved = NodeState(seed=identity, epoch=0, streams=(), peers=())
        saved = replace(saved, epoch=self.next_epoch(saved, at), earlier_epoch=saved.epoch)
        self._saved, self._previous_save = saved, None
        self.engine = engine = Engine(
            self.config,
            saved,
            address=self.address,
            rng=rng,
            entropy=random.Random(f"{seed}/entropy").randbytes,
            now=self.read_clock(at),
        )
        self.peer_id = engine.peer_id
        self._saved_version = engine.state_version
        self.is_leaving, self.suspended_at, self.stop_reason = False, None, ""
        self.wake_at, self.is_save_scheduled = math.inf, False
        return engine

    def next_epoch(self, saved: NodeState, at: float) -> int:
        """Returns the epoch of a run that starts at `at`: the only use of the wall clock."""
        return max(saved.epoch + 1, START_UNIX_S + int(at + self.clock_error_s))

    def lose_all_but_identity(self) -> None:
        """Discards what is on the disk except the identity."""
        if self._saved is not None:
            self._saved = NodeState(seed=self._saved.seed, epoch=0, is_lost=True)
            self._previous_save = None

    def lose_last_save(self, at: float) -> None:
        """Discards a save that is in progress; the one before it remains."""
        if self._previous_save is not None and at - self.saved_at <= DISK_WRITE_S:
            self._saved, self._previous_save = self._previous_save, None

    def stop(self) -> None:
        """Ends this run, as kill -9 does."""
        if self.engine is not None:
            self.previous_duplicates += self.engine.stats().duplicates
        self.engine = None

    def read_clock(self, at: float) -> float:
        """Returns this node's clock at virtual time `at`."""
        self._clock = max(self._clock, at * self._rate + self._offset_s)
        return self._clock

    def wake(self, at: float) -> float:
        """Returns this node's clock at a wake-up: the deadline of its engine if it is as good as due."""
        if 0 < self.due_at - self.read_clock(at) < DEADLINE_TOLERANCE_S:
            self._clock = self.due_at
        return self._clock

    def to_virtual(self, instant: float) -> float:
        """Returns the virtual time at which this node's clock shows `instant`."""
        return (instant - self._offset_s) / self._rate

    @property
    def has_unsaved_state(self) -> bool:
        """Whether the state changed since the last save."""
        return self.engine is not None and self.engine.state_version != self._saved_version

    @property
    def has_unsaved_epoch(self) -> bool:
        """Whether the epoch changed since the last save, so that nothing may be sent."""
        return (
            self.engine is not None
            and self._saved is not None
            and self.engine.epoch != self._saved.epoch
        )

    @property
    def has_unsaved_entries(self) -> bool:
        """Whether entries of this node are not on disk, which is done before they are sent."""
        return self.engine is not None and self.engine.state.version != self._saved_entries_version

    def save_entries(self, at: float) -> None:
        """Writes the state to disk before entries are sent, so that no crash tears this write."""
        self.save(at)
        self._previous_save = None

    def save(self, at: float) -> None:
        """Writes the state to disk."""
        if self.engine is not None:
            saved = self.engine.snapshot(self.read_clock(at))
            # A torn write never undoes an epoch: it was on disk before anything was sent under it.
            is_same_run = self._saved is not None and self._saved.epoch == saved.epoch
            self._previous_save = self._saved if is_same_run else None
            self._saved = saved
            self.saved_at = at
            self._saved_version = self.engine.state_version
            self._saved_entries_version = self.engine.state.version

    def record_delivery(self, message: Message, at: float) -> None:
        """Records the delivery of `message` at virtual time `at`."""
        delivery = self.deliveries.get(message.id)
        if delivery is None:
            self.deliveries[message.id] = Delivery(at, message.hops, message.via)
        else:
            delivery.count += 1

    def stats(self) -> Stats:
        """Returns the counters of this run; all zero while it is down."""
        return Stats() if self.engine is None else self.engine.stats()

    @property
    def duplicates(self) -> int:
        """Redundant payload copies received, over all runs."""
        current = 0 if self.engine is None else self.engine.duplicates
        return self.previous_duplicates + current
