"""What may be asked of a running node by a line of text; parsed once, for the app and for scripts.

What must stay true:

- A line becomes exactly one command or one `CommandError` whose words are for people; nothing is
  done while parsing.
- A line that does not begin with a slash is a message to everyone. ``//x`` says ``/x``.
- Everything that can be typed stands in `COMMANDS`; help and completion are made from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from grapevine_proto.errors import GrapevineError


class CommandError(GrapevineError):
    """A line that cannot be understood. Nothing was done."""


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Tell everyone."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Trace:
    """Tell everyone, and have those who get it say so."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Tell one: `to` is a name, an id or the beginning of one, or an address."""

    to: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Dial:
    """Knock at an address, ``host:port``."""

    address: str


@dataclass(frozen=True, slots=True)
class Deny:
    """Shut out an identity from now on: `who` as in `Send`, or any whole id."""

    who: str


@dataclass(frozen=True, slots=True)
class Allow:
    """Let an identity in again."""

    who: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove a node that is gone from the tables: `who` as in `Send`, or any whole id."""

    who: str


@dataclass(frozen=True, slots=True)
class StartRound:
    """Begin an anti-entropy round now."""


@dataclass(frozen=True, slots=True)
class ShowSettings:
    """Every setting, its value and where it came from."""


@dataclass(frozen=True, slots=True)
class Change:
    """Apply and save settings: (name, what one would type) each."""

    changes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reload:
    """Read settings and keys again and take over what a running node can."""


@dataclass(frozen=True, slots=True)
class Watch:
    """All there is to show at once, and from then on what happens."""


@dataclass(frozen=True, slots=True)
class ShowTables:
    """What moves all the time, for whoever watches: peers and counters in one."""


@dataclass(frozen=True, slots=True)
class ShowPeers:
    """The nodes we are linked to."""


@dataclass(frozen=True, slots=True)
class ShowMembers:
    """Everyone in the cluster, linked or not."""


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """Who we are and how we do, in one line."""


@dataclass(frozen=True, slots=True)
class ShowStats:
    """All counters."""


@dataclass(frozen=True, slots=True)
class ShowRounds:
    """The latest anti-entropy rounds."""


@dataclass(frozen=True, slots=True)
class ShowTraces:
    """The latest traced messages and who has them."""


@dataclass(frozen=True, slots=True)
class OnScreen:
    """Something that an app does with its screen: the name of its action, and what belongs to it."""

    act: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class ShowHelp:
    """What can be typed; `about` is a command's name, or empty for all."""

    about: str = ""


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave the cluster politely and end."""


Command: TypeAlias = (
    Broadcast
    | Trace
    | Send
    | Dial
    | Deny
    | Allow
    | Forget
    | StartRound
    | ShowSettings
    | Change
    | Reload
    | Watch
    | ShowTables
    | ShowPeers
    | ShowMembers
    | ShowStatus
    | ShowStats
    | ShowRounds
    | ShowTraces
    | OnScreen
    | ShowHelp
    | Quit
)


class CommandSpec(NamedTuple):
    """One slash command: its name without the slash, other names, arguments as shown to people,
    what it does, and how the rest of its line becomes a command."""

    name: str
    aliases: tuple[str, ...]
    arguments: str
    help: str
    read: Callable[[str], Command]

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.arguments}".rstrip()


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: bytes that were not UTF-8 once
        raise CommandError("the text is not valid Unicode, so it cannot be sent as UTF-8") from None


def _read_broadcast(rest: str) -> Command:
    if not rest:
        raise CommandError("/broadcast needs a text: /broadcast TEXT")
    return Broadcast(_encode(rest))


def _read_trace(rest: str) -> Command:
    if not rest:
        raise CommandError("/trace needs a text: /trace TEXT")
    return Trace(_encode(rest))


def _read_send(rest: str) -> Command:
    to, _, text = rest.partition(" ")
    if to.startswith('"') and '"' in rest[1:]:  # a name with blanks in it
        to, _, text = rest[1:].partition('"')
    if not to or not text.strip():
        raise CommandError("/send needs a peer and a text: /send PEER TEXT")
    return Send(to, _encode(text.strip()))


def _read_dial(rest: str) -> Command:
    if not rest or " " in rest:
        raise CommandError("/connect needs one address: /connect HOST:PORT")
    return Dial(rest)


def _read_one(name: str, make: Callable[[str], Command]) -> Callable[[str], Command]:
    def read(rest: str) -> Command:
        who = rest[1:-1] if len(rest) > 2 and rest[0] == rest[-1] == '"' else rest
        if not who:
            raise CommandError(f"/{name} needs a peer: /{name} PEER")
        return make(who)

    return read


def _read_help(rest: str) -> Command:
    return ShowHelp(find(rest.removeprefix("/")).name if rest else "")


def _alone(name: str, command: Command) -> Callable[[str], Command]:
    def read(rest: str) -> Command:
        if rest:
            raise CommandError(f"/{name} takes nothing after it")
        return command

    return read


COMMANDS: Final[tuple[CommandSpec, ...]] = (
    CommandSpec(
        "broadcast",
        ("b",),
        "TEXT",
        "Tell everyone; so does a line without a slash",
        _read_broadcast,
    ),
    CommandSpec("send", ("s",), "PEER TEXT", "Tell one peer, by name, id or address", _read_send),
    CommandSpec(
        "peers", ("p",), "", "List the peers we are linked to", _alone("peers", ShowPeers())
    ),
    CommandSpec(
        "members", (), "", "List everyone in the cluster", _alone("members", ShowMembers())
    ),
    CommandSpec(
        "status", ("st",), "", "Say who we are and how we do", _alone("status", ShowStatus())
    ),
    CommandSpec("stats", (), "", "List all counters", _alone("stats", ShowStats())),
    CommandSpec(
        "rounds", (), "", "List the latest anti-entropy rounds", _alone("rounds", ShowRounds())
    ),
    CommandSpec(
        "trace",
        ("t",),
        "TEXT",
        "Tell everyone, and see who has it, how soon, over how many hops",
        _read_trace,
    ),
    CommandSpec("traces", (), "", "List the latest traces", _alone("traces", ShowTraces())),
    CommandSpec("connect", ("dial",), "HOST:PORT", "Knock at an address", _read_dial),
    CommandSpec(
        "deny",
        (),
        "PEER",
        "Shut out a peer by name, id or address, until the restart",
        _read_one("deny", Deny),
    ),
    CommandSpec("allow", (), "PEER", "Let a peer in that was shut out", _read_one("allow", Allow)),
    CommandSpec(
        "forget",
        (),
        "PEER",
        "Remove a node that is gone, until another node reports it",
        _read_one("forget", Forget),
    ),
    CommandSpec("round", (), "", "Begin an anti-entropy round now", _alone("round", StartRound())),
    CommandSpec("settings", (), "", "Show every setting", _alone("settings", ShowSettings())),
    CommandSpec(
        "rates", (), "", "In the app: go to the rate limits", _alone("rates", OnScreen("rates"))
    ),
    CommandSpec(
        "messages",
        (),
        "",
        "In the app: go to the messages",
        _alone("messages", OnScreen("messages")),
    ),
    CommandSpec(
        "traffic",
        (),
        "",
        "In the app: draw the traffic over time",
        _alone("traffic", OnScreen("traffic")),
    ),
    CommandSpec(
        "filter",
        (),
        "[WORDS]",
        "In the app: show only what matches in the panel; without words, everything",
        lambda rest: OnScreen("filter", rest),
    ),
    CommandSpec(
        "pause",
        (),
        "",
        "In the app: hold the screen still, or go on",
        _alone("pause", OnScreen("pause")),
    ),
    CommandSpec(
        "zoom",
        (),
        "",
        "In the app: give the panel the whole screen, or take it back",
        _alone("zoom", OnScreen("zoom")),
    ),
    CommandSpec(
        "export",
        (),
        "",
        "In the app: write the messages that are shown to a file",
        _alone("export", OnScreen("export")),
    ),
    CommandSpec(
        "picture",
        (),
        "",
        "In the app: save a screenshot (SVG)",
        _alone("picture", OnScreen("picture")),
    ),
    CommandSpec(
        "undo",
        (),
        "",
        "In the app: undo what was done in the last 10 s",
        _alone("undo", OnScreen("undo")),
    ),
    CommandSpec(
        "copy",
        (),
        "",
        "In the app: copy the peer's address, or the message, under the cursor",
        _alone("copy", OnScreen("copy")),
    ),
    CommandSpec(
        "copy_id",
        (),
        "",
        "In the app: copy the ID of the peer or message under the cursor",
        _alone("copy_id", OnScreen("copy_id")),
    ),
    CommandSpec(
        "sort",
        (),
        "",
        "In the app: sort the table by its next column",
        _alone("sort", OnScreen("sort")),
    ),
    CommandSpec(
        "reverse",
        (),
        "",
        "In the app: reverse the order of the table",
        _alone("reverse", OnScreen("reverse")),
    ),
    CommandSpec("help", ("h", "?"), "[COMMAND]", "Say what can be typed", _read_help),
    CommandSpec(
        "quit",
        ("exit", "q", "leave"),
        "",
        "Leave the cluster gracefully and end",
        _alone("quit", Quit()),
    ),
)

DETACH: Final = "Detach; the node goes on"


def about(spec: CommandSpec, *, is_attached: bool) -> str:
    """What a command does, in an app of its own or in one that is attached to a node elsewhere."""
    return DETACH if is_attached and spec.name == "quit" else spec.help


# The word for what a key does, by the key's name; keys that only move or change the view are not here.
OF_KEYS: Final = {
    **{
        each: each
        for each in ("help", "members", "status", "traffic", "settings", "picture", "undo")
    },
    **{each: each for each in ("quit", "peers", "messages", "rates", "rounds", "filter", "zoom")},
    **{each: each for each in ("pause", "connect", "round", "deny", "forget", "export")},
    **{each: each for each in ("copy", "copy_id", "sort", "reverse")},
    "trace": "traces",
    "new_trace": "trace",
    "write": "broadcast",
    "send_to": "send",
    "dial_again": "connect",
}

_BY_NAME: Final = {name: spec for spec in COMMANDS for name in (spec.name, *spec.aliases)}


def find(name: str) -> CommandSpec:
    """The command of that name, long or short, without its slash. Raises CommandError, which
    names the nearest one."""
    spec = _BY_NAME.get(name.lower())
    if spec is None:
        raise CommandError(f"there is no /{name}; {nearest(name, _BY_NAME, prefix='/')}")
    return spec


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Words that lead on: "did you mean ...?", or all there are when nothing comes near."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return "there are: " + ", ".join(prefix + each for each in names if len(each) > 2)


def parse(line: str) -> Command:
    """The command that `line` is. Raises CommandError; an empty line is one, too."""
    line = line.strip()
    if not line:
        raise CommandError("nothing to send: the line is empty")
    if line.startswith("//"):
        return Broadcast(_encode(line[1:]))
    if not line.startswith("/"):
        return Broadcast(_encode(line))
    name, _, rest = line[1:].partition(" ")
    return find(name).read(rest.strip())


def complete(line: str, peers: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Whole lines that `line` may be the beginning of: slash commands, then the names of peers
    where a command wants one."""
    if not line.startswith("/"):
        return ()
    name, blank, rest = line[1:].partition(" ")
    if not blank:
        longs = [spec.name for spec in COMMANDS if spec.name.startswith(name.lower())]
        return tuple(f"/{each} " if _BY_NAME[each].arguments else f"/{each}" for each in longs)
    spec = _BY_NAME.get(name.lower())
    if spec is None or not spec.arguments.startswith("PEER") or '" ' in rest:
        return ()
    begun = rest.removeprefix('"')
    if " " in rest and begun == rest:
        return ()
    blank = " " if spec.arguments != "PEER" else ""
    found = [each for each in peers if each.lower().startswith(begun.lower())]
    return tuple(f"/{name} {_quoted(each)}{blank}" for each in found)


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
