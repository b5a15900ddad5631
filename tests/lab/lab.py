"""The lab: real headless nodes, the installed command, on hosts of their own networks.

Invariants:

- A wait ends with the event that it waits for. Its time limit is the bound that a scenario states, times
  `PATIENCE` unless the lab measures (``python -m tests.lab --strict``).
- When a lab closes without an error, no node was ever declared down or as having left while its process ran.
- A node ends with its lab, also if that crashes: its standard input closes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from grapevine_proto import ClusterKey
from grapevine_tui.control.client import send_command
from grapevine_tui.control.target import NodeUnreachable
from tests.lab.network import Host, Topology

Object = dict[str, Any]
T = TypeVar("T")

COMMAND: Final = Path(sys.executable).with_name("grapevine-tui")
PATIENCE: Final = float(os.environ.get("GRAPEVINE_LAB_PATIENCE", "10"))  # CI shares its cores
START_S: Final = 3.0  # of a process, on an idle machine below 1 s
STOP_S: Final = 3.0
STATUS_INTERVAL_S: Final = 0.1  # between looks at what no event reports


class LabNode:
    """A headless node on a host. `events` is everything that it printed."""

    def __init__(self, lab: Lab, host: Host, name: str, arguments: Iterable[str]) -> None:
        self.lab = lab
        self.host = host
        self.name = name
        self.arguments = tuple(arguments)
        self.directory = host.directory / name
        self.state_dir = self.directory / "state"
        self.events: list[Object] = []
        self.ends: list[float] = []  # of its processes, Unix time
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._errors = self.directory / "stderr"

    def start(self) -> Self:
        """Starts the process. Does not wait."""
        self.directory.mkdir(parents=True, exist_ok=True)
        settled = ("--headless", "--on-eof", "exit", "--eof-timeout", "0", "--log-level", "info")
        named = ("--name", self.name, "--state-dir", str(self.state_dir))
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [*self.host.enter, str(COMMAND), *settled, *named, *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self.environ,
                cwd=self.directory,
            )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        return self

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a user of this host."""
        kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        return kept | {
            "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
        }

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # closed
            for line in process.stdout:
                self.events.append(json.loads(line))
                self.lab.on_event()
        self.lab.on_event()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def peer_id(self) -> str:
        return str(self.last("started")["peer_id"])

    def last(self, event: str) -> Object:
        """The latest event of that kind."""
        return next(each for each in reversed(self.events) if each["event"] == event)

    def has(self, event: str, **fields: object) -> bool:
        """Whether it printed such an event."""
        return any(
            each["event"] == event and fields.items() <= each.items() for each in list(self.events)
        )

    def ctl(self, command: str, **fields: object) -> Object:
        """Sends a command to the control socket. Returns the reply."""
        return send_command(self.state_dir, {"cmd": command, **fields})

    def peers(self) -> dict[str, Object]:
        """The peers by name; empty while the node starts."""
        try:
            return {each["name"]: each for each in self.ctl("peers")["peers"]}
        except NodeUnreachable:
            return {}

    def is_connected_to(self, *nodes: LabNode) -> bool:
        peers = self.peers()
        return all(peers.get(each.name, {}).get("state") == "connected" for each in nodes)

    def address_of(self, other: LabNode) -> str:
        """The address at which this node shows its peer `other`."""
        return str(self.peers()[other.name]["address"])

    def path_to(self, other: LabNode) -> str | None:
        """How packets reach another member, over a link or a transient session."""
        members = {each["peer_id"]: each for each in self.ctl("members")["members"]}
        path = members[other.peer_id]["path"]
        return None if path is None else str(path)

    def broadcast(self, text: str) -> None:
        self.ctl("broadcast", text=text)

    def send(self, other: LabNode, text: str) -> str:
        """Sends a direct message. Returns its ID."""
        return str(self.ctl("send", to=other.peer_id, text=text)["id"])

    def received(self, text: str) -> bool:
        return self.has("message", text=text)

    def cli(self, *arguments: str, given: str = "") -> tuple[str, str]:
        """Runs another grapevine-tui command as the same user. Returns its standard output and error."""
        done = subprocess.run(
            [*self.host.enter, str(COMMAND), "--key-file", str(self.lab.key_file), *arguments],
            input=given,
            capture_output=True,
            text=True,
            env=self.environ,
            cwd=self.directory,
            timeout=START_S * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    def kill(self) -> None:
        """Ends the process without a chance to say so."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Lets the node leave."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        self.ends.append(time.time())
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(STOP_S * PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        assert self._reader is not None
        process.stdin.close()
        self._reader.join()
        process.stdout.close()
        self._process = None

    def report(self) -> str:
        """What a failed test should show."""
        errors = self._errors.read_text(errors="replace") if self._errors.exists() else ""
        lines = [json.dumps(each)[:300] for each in self.events[-8:]]
        return "\n".join([f"--- {self.name}", *lines, errors[-1500:]])


class Lab(Topology):
    """Networks with nodes. A context manager, which removes everything."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.nodes: list[LabNode] = []
        self.key_file = directory / "cluster.key"
        ClusterKey.generate().save(self.key_file)
        self._changed = threading.Condition()
        self._changes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        deaths = [] if kind is not None else self.false_deaths()
        for each in self.nodes:
            each.kill()
        self.close_topology()
        assert deaths == []

    def node(
        self, host: Host, *peers: Host | str, bind: str = "0.0.0.0", arguments: Iterable[str] = ()
    ) -> LabNode:
        """Starts a node, named like its host, that listens on all addresses and bootstraps from `peers`."""
        known = [each.endpoint if isinstance(each, Host) else each for each in peers]
        given = ["--host", bind, "--key-file", str(self.key_file)]
        given += [word for each in known for word in ("--peer", each)]
        node = LabNode(self, host, host.name, [*given, *arguments])
        self.nodes.append(node)
        return node.start()

    def joined_node(self, host: Host, invitation: str) -> LabNode:
        """Starts a node from an invitation, by the lines of the guide."""
        node = LabNode(self, host, host.name, ())
        node.directory.mkdir(parents=True)
        node.cli("join", given=invitation)
        self.nodes.append(node)
        return node.start()

    def on_event(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def until(self, condition: Callable[[], T], what: str, within_s: float) -> T:
        """Waits until `condition` returns something true, and returns it. `within_s` is the promise."""
        began_at = time.monotonic()
        give_up_at = began_at + within_s * PATIENCE
        while True:
            with self._changed:
                seen = self._changes
            if found := condition():
                taken_s = time.monotonic() - began_at
                print(f"{what}: {taken_s:.2f} s (at most {within_s:g})")  # noqa: T201
                return found
            left_s = give_up_at - time.monotonic()
            assert left_s > 0, (
                f"{what}: not within {within_s:g} s, times {PATIENCE:g}\n{self.report()}"
            )
            with self._changed:
                if self._changes == seen:
                    self._changed.wait(min(left_s, STATUS_INTERVAL_S))

    def until_started(self, *nodes: LabNode) -> None:
        self.until(
            lambda: all(each.has("started") for each in nodes or self.nodes),
            "started",
            START_S * max(1, len(self.nodes) / 2),
        )

    def until_connected(self, *nodes: LabNode, within_s: float = 3.0) -> None:
        """Waits until these nodes, or all, are connected to each other."""
        nodes = nodes or tuple(self.nodes)
        self.until_started(*nodes)
        self.until(
            lambda: all(
                each.is_connected_to(*(other for other in nodes if other is not each))
                for each in nodes
            ),
            f"{len(nodes)} nodes connected to each other",
            within_s,
        )

    def until_broadcast_reaches(
        self, source: LabNode, *nodes: LabNode, text: str, within_s: float
    ) -> None:
        """`source` broadcasts once; waits until `nodes`, or all others, have received it."""
        targets = nodes or tuple(each for each in self.nodes if each is not source)
        source.broadcast(text)
        self.until(
            lambda: all(each.received(text) for each in targets),
            f"a broadcast of {source.name} reached {', '.join(each.name for each in targets)[:60]}",
            within_s,
        )

    def until_messages_flow(self, *nodes: LabNode, label: str, within_s: float) -> None:
        """Each of `nodes`, or of all, broadcasts; waits until each has received all of these."""
        nodes = nodes or tuple(self.nodes)
        for each in nodes:
            each.broadcast(f"{label} {each.name}")
        self.until(
            lambda: all(
                each.received(f"{label} {other.name}")
                for each in nodes
                for other in nodes
                if other is not each
            ),
            f"{label}: broadcasts between {len(nodes)} nodes",
            within_s,
        )

    def until_send_ends(self, source: LabNode, target: LabNode, text: str, within_s: float) -> bool:
        """Sends a direct message; waits until it arrived or its sender knows that it did not. Returns
        whether it arrived."""
        message_id = source.send(target, text)
        self.until(
            lambda: target.received(text) or source.has("undelivered", id=message_id),
            f"a message from {source.name} to {target.name} arrived or was reported",
            within_s,
        )
        return target.received(text)

    def until_known(self, *nodes: LabNode, within_s: float) -> None:
        """Waits until each of these nodes, or of all, has all others in its member table."""
        nodes = nodes or tuple(self.nodes)
        self.until_started(*nodes)
        ids = {each.peer_id for each in nodes}
        self.until(
            lambda: all(
                ids <= {each.peer_id, *(m["peer_id"] for m in each.ctl("members")["members"])}
                for each in nodes
            ),
            f"{len(nodes)} nodes know each other",
            within_s,
        )

    def let_pass(self, seconds: float) -> None:
        """Lets time pass in which something must not happen, or a fault must last."""
        give_up_at = time.monotonic() + seconds
        with self._changed:
            while (left_s := give_up_at - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def false_deaths(self) -> list[str]:
        """Statements of nodes that a member was down, or had left, while its process ran."""
        by_id = {each.peer_id: each for each in self.nodes if each.has("started")}
        found = []
        for witness in self.nodes:
            for event in witness.events:
                if event["event"] == "member" and event["status"] in ("down", "left"):
                    subject = by_id.get(event["peer_id"])
                    if subject is not None and not subject.ends:
                        found.append(f"{witness.name}: {subject.name} {event['status']}")
        return found

    def report(self) -> str:
        return "\n".join(each.report() for each in self.nodes)
