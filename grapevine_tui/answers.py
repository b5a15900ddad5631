"""What a running node answers when it is asked: the same on stdin and on the control socket.

What must stay true:

- A line becomes one reply, or none for a blank one; a bad line changes nothing.
- Nothing here knows where the line came from or how the reply leaves.

Driven by `headless` and `control`, which work on one line of a caller after another.
"""

from __future__ import annotations

import logging
import stat
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, assert_never

from grapevine_proto.errors import GrapevineError, MessageTooLarge
from grapevine_proto.events import PeerState
from grapevine_proto.ids import PeerId
from grapevine_proto.threads import Threads
from grapevine_tui import __version__
from grapevine_tui.commands import (
    COMMANDS,
    Allow,
    Broadcast,
    Change,
    Command,
    Deny,
    Dial,
    Forget,
    OnScreen,
    Quit,
    Reload,
    Send,
    ShowHelp,
    ShowMembers,
    ShowPeers,
    ShowRounds,
    ShowSettings,
    ShowStats,
    ShowStatus,
    ShowTables,
    ShowTraces,
    StartRound,
    Trace,
    Watch,
)
from grapevine_tui.editing import Editing
from grapevine_tui.host import Host
from grapevine_tui.jsonlines import (
    BadLine,
    Object,
    Request,
    member_object,
    peer_object,
    read_request,
    round_object,
    stats_object,
    trace_object,
)
from grapevine_tui.logs import set_level
from grapevine_tui.reloading import reload
from grapevine_tui.settings import Settings
from grapevine_tui.streams import LINE_BYTES

logger = logging.getLogger("grapevine.answers")

FILES_AT_ONCE: Final = 4  # payload files that are read, for all who ask
TOO_LONG: Final = f"the line is longer than {LINE_BYTES:,} bytes"


class Reply(NamedTuple):
    """The fields of a ``reply``, and whether the caller asked the node to leave, or to be told from
    now on what happens."""

    fields: Object
    is_goodbye: bool = False
    is_watch: bool = False


class NotHere(GrapevineError):
    """What was asked for cannot be had of this node."""


class Answers:
    """Answers for one host. `settings` are what it began with; None: they can be neither seen nor
    changed."""

    def __init__(self, host: Host, settings: Settings | None = None) -> None:
        self._host = host
        self._settings = settings
        self._files = Threads("payload files", FILES_AT_ONCE)

    async def reply(self, line: bytes | None) -> Reply | None:
        """What `line` gets for an answer; None in place of a line: it was too long. Never raises
        for what stands in it."""
        request: Any = None
        try:
            asked = _asked(line)
            if asked is None:
                return None
            request = asked.request
            answer = await self._obey(await self._with_payload(asked))
        except GrapevineError as error:
            if request is None and isinstance(error, BadLine):
                request = error.request
            return Reply({"request": request, "ok": False, "error": str(error)})
        except Exception as error:  # the caller learns of a bug of ours, and everyone else goes on
            logger.exception("internal error in a command")
            words = f"internal error: {type(error).__name__}: {error}"
            return Reply({"request": request, "ok": False, "error": words})
        return Reply(
            {"request": request, "ok": True, **answer},
            is_goodbye=isinstance(asked.command, Quit),
            is_watch=isinstance(asked.command, Watch),
        )

    @property
    def connected(self) -> int:
        return sum(peer.state is PeerState.CONNECTED for peer in self._host.node.peers())

    def who(self) -> Object:
        """Who this node is, as `started` tells it."""
        node, config = self._host.node, self._host.config
        return {
            "peer_id": str(node.peer_id),
            "address": str(node.address),
            "epoch": node.epoch,
            "name": config.name,
            "zone": config.zone,
            "cluster": config.cluster,
            "version": __version__,
        }

    def status(self) -> Object:
        host, node = self._host, self._host.node
        return self.who() | {
            "advertised": str(node.advertised),
            "keys": [key.fingerprint for key in host.config.keys],
            "uptime_s": round(node.now() - host.started_at, 3),
            "peers": self.connected,
            "members": node.stats().members,
            "denied": [str(peer_id) for peer_id in host.config.denied],
            "untaken": host.untaken,
            "lag_ms": round(node.lag_s * 1000, 3),
            "strategy": host.config.strategy,
            "state_dir": None if host.state_dir is None else str(host.state_dir),
            "restart": list(host.waiting),
        }

    async def _with_payload(self, asked: Request) -> Command:
        command = asked.command
        if asked.file and isinstance(command, Broadcast | Trace | Send):
            limit = self._host.config.max_message_size
            payload = await self._files.run(_read_payload, Path(asked.file), limit)
            return replace(command, payload=payload)
        return command

    async def _obey(self, command: Command) -> Object:
        host, node = self._host, self._host.node
        match command:
            case Broadcast(payload):
                message_id, peers = await host.broadcast(payload)
                return {"id": str(message_id), "peers": peers}
            case Trace(payload):
                message_id, peers = await host.trace(payload)
                return {"id": str(message_id), "peers": peers}
            case Send(to, payload):
                peer_id = host.resolve(to)
                return {"id": str(await node.send(peer_id, payload)), "to": str(peer_id)}
            case Dial(address):
                await host.dial(address)
                return {"address": address}
            case Deny(who):
                return {"peer_id": str(await host.deny(who))}
            case Allow(who):
                return {"peer_id": str(await host.allow(who))}
            case Forget(who):
                peer_id = _whole_id(who) or host.resolve(who)
                await host.forget(peer_id)
                return {"peer_id": str(peer_id)}
            case OnScreen(act):
                raise NotHere(f"/{act} is for the screen of an app; this node has none")
            case StartRound():
                await host.start_round()
                return {}
            case Change(changes):
                return self._change(changes)
            case Reload():
                if self._settings is None:
                    raise NotHere("the settings of this node are not told")
                return {"restart": list(reload(host, self._settings))}
            case Quit():
                return {}
            case _:
                return self._look(command)

    def _look(
        self,
        command: ShowPeers
        | ShowMembers
        | ShowRounds
        | ShowTraces
        | ShowSettings
        | ShowStats
        | ShowStatus
        | ShowTables
        | ShowHelp
        | Watch,
    ) -> Object:
        """What there is to see; changes nothing."""
        node = self._host.node
        match command:
            case ShowPeers():
                now, denied = node.now(), frozenset(self._host.config.denied)
                return {
                    "peers": [
                        peer_object(peer, now) | {"denied": peer.peer_id in denied}
                        for peer in node.peers()
                    ]
                }
            case ShowMembers():
                return {"members": [member_object(member) for member in node.members()]}
            case ShowRounds():
                now = node.now()
                return {
                    "rounds": [
                        round_object(each) | {"ago_s": round(max(0.0, now - each.started_at), 3)}
                        for each in node.rounds()
                    ]
                }
            case ShowTraces():
                return {"traces": [trace_object(each) for each in node.traces()]}
            case ShowStats():
                return {"stats": stats_object(node.stats(), node.now())}
            case ShowStatus():
                return self.status()
            case ShowTables():
                return self._tables()
            case ShowSettings():
                return {"values": [each._asdict() for each in self._edited().shown]}
            case Watch():
                return self._all()
            case ShowHelp(about):
                specs = [each for each in COMMANDS if about in ("", each.name)]
                return {"help": [{"usage": each.usage, "help": each.help} for each in specs]}
        assert_never(command)

    def _edited(self) -> Editing:
        """Anew each time: others change the same files, by the same verbs or by hand."""
        if self._settings is None:
            raise NotHere("the settings of this node are not told")
        fresh, keys = self._settings.reload(), self._host.config.keys
        fresh = replace(fresh, node=fresh.node.replace(keys=keys))
        return Editing(fresh, self._host.reconfigure, self._settings)

    def _change(self, changes: tuple[tuple[str, str], ...]) -> Object:
        """Apply and save all of `changes`, or none."""
        editing = self._edited()
        for name, text in changes:
            editing.change(name, text)
        try:
            saved = editing.save()
        except OSError as error:
            raise NotHere(f"not saved: {error.strerror or error}") from None
        self._host.waiting = editing.waiting
        set_level(editing.settings.log_level)
        return {
            "path": None if saved.path is None else str(saved.path),
            "keeps_comments": saved.keeps_comments,
            "restart": list(saved.restart),
            "overruled": dict(saved.overruled),
            "values": [each._asdict() for each in editing.shown],
        }

    def _tables(self) -> Object:
        """What moves all the time."""
        node = self._host.node
        now, stats = node.now(), node.stats()
        return {
            "now_s": now,
            "lag_ms": round(node.lag_s * 1000, 3),
            "members": stats.members,
            "denied": [str(peer_id) for peer_id in self._host.config.denied],
            "peers": [peer_object(peer, now) for peer in node.peers()],
            "stats": stats_object(stats, now),
        }

    def _all(self) -> Object:
        """Everything but the messages, for whoever begins to watch."""
        host, model = self._host, self._host.model
        wall = time.time()
        return {
            "status": self.status(),
            "max_peers": host.config.max_peers,
            "max_message_size": host.config.max_message_size,
            "tables": self._tables(),
            "members": [member_object(member) for member in host.node.members()],
            "rounds": [
                round_object(each.round) | {"ago_s": round(wall - each.at_unix, 3)}
                for each in model.rounds
            ],
            "traces": [
                trace_object(each.trace) | {"ago_s": round(wall - each.at_unix, 3)}
                for each in model.traces.values()
            ],
        }


def _asked(line: bytes | None) -> Request | None:
    if line is None:
        raise BadLine(TOO_LONG)
    return read_request(line)


def _whole_id(text: str) -> PeerId | None:
    """The id that `text` is; None: it is a name, an address or the beginning of an id."""
    with suppress(ValueError):
        return PeerId.parse(text.strip())
    return None


def _read_payload(path: Path, limit_bytes: int) -> bytes:
    """What is in the plain file at `path`. Raises BadLine, MessageTooLarge."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadLine(f"{path}: not a plain file")
        if status.st_size > limit_bytes:
            raise MessageTooLarge(status.st_size, limit_bytes)
        with path.open("rb") as file:
            payload = file.read(limit_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a name the system cannot have
        raise BadLine(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(payload) > limit_bytes:
        raise MessageTooLarge(len(payload), limit_bytes)
    return payload
