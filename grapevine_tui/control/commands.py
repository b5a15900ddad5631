"""What may be asked of a running node by a line of text; parsed once, for the app and for scripts.

What must stay true:

- A line becomes exactly one command or one `CommandError` whose words are for people; nothing is
  done while parsing.
- A line that does not begin with a slash is a message to everyone. ``//x`` says ``/x``.
- Everything that can be typed stands in `MAX_COMMANDS`; help and completion are made from it.
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
    """Tell one: `peer_ref` is a name, an id or the beginning of one, or an address."""

    peer_ref: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Dial:
    """Knock at an address, ``host:port``."""

    address: str


@dataclass(frozen=True, slots=True)
class Deny:
    """Shut out an identity from now on: `peer_ref` as in `Send`, or any whole id."""

    peer_ref: str


@dataclass(frozen=True, slots=True)
class Allow:
    """Let an identity in again."""

    peer_ref: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove a node that is gone from the tables: `peer_ref` as in `Send`, or any whole id."""

    peer_ref: str


@dataclass(frozen=True, slots=True)
class StartRound:
    """Begin an anti-entropy round now."""


@dataclass(frozen=True, slots=True)
class ShowSettings:
    """Every setting, its value and where it came from."""


@dataclass(frozen=True, slots=True)
class SetSettings:
    """Apply and save settings: (name, what one would type) each."""

    changes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reload:
    """Read settings and keys again and take over what a running node can."""


@dataclass(frozen=True, slots=True)
class Watch:
    """All there is to show at once, and from then on what happens."""


@dataclass(frozen=True, slots=True)
class ShowSnapshot:
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
class ScreenAction:
    """Something that an app does with its screen: the name of its action, and what belongs to it."""

    action: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class ShowHelp:
    """What can be typed; `about` is a command's name, or empty for all."""

    topic: str = ""


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
    | SetSettings
    | Reload
    | Watch
    | ShowSnapshot
    | ShowPeers
    | ShowMembers
    | ShowStatus
    | ShowStats
    | ShowRounds
    | ShowTraces
    | ScreenAction
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
    parse: Callable[[str], Command]

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.arguments}".rstrip()


def _encode_text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: bytes that were not UTF-8 once
        raise CommandError("the text is not valid Unicode, so it cannot be sent as UTF-8") from None


def _parse_broadcast(rest: str) -> Command:
    if not rest:
        raise CommandError("/broadcast needs a text: /broadcast TEXT")
    return Broadcast(_encode_text(rest))


def _parse_trace(rest: str) -> Command:
    if not rest:
        raise CommandError("/trace needs a text: /trace TEXT")
    return Trace(_encode_text(rest))


def _parse_send(rest: str) -> Command:
    peer_ref, _, text = rest.partition(" ")
    if peer_ref.startswith('"') and '"' in rest[1:]:  # a name with blanks in it
        peer_ref, _, text = rest[1:].partition('"')
    if not peer_ref or not text.strip():
        raise CommandError("/send needs a peer and a text: /send PEER TEXT")
    return Send(peer_ref, _encode_text(text.strip()))


def _parse_dial(rest: str) -> Command:
    if not rest or " " in rest:
        raise CommandError("/connect needs one address: /connect HOST:PORT")
    return Dial(rest)


def _peer_parser(name: str, make: Callable[[str], Command]) -> Callable[[str], Command]:
    def parse_rest(rest: str) -> Command:
        peer_ref = rest[1:-1] if len(rest) > 2 and rest[0] == rest[-1] == '"' else rest
        if not peer_ref:
            raise CommandError(f"/{name} needs a peer: /{name} PEER")
        return make(peer_ref)

    return parse_rest


def _parse_help(rest: str) -> Command:
    return ShowHelp(find_command(rest.removeprefix("/")).name if rest else "")


def _no_argument_parser(name: str, command: Command) -> Callable[[str], Command]:
    def parse_rest(rest: str) -> Command:
        if rest:
            raise CommandError(f"/{name} takes nothing after it")
        return command

    return parse_rest


COMMANDS: Final[tuple[CommandSpec, ...]] = (
    CommandSpec(
        "broadcast",
        ("b",),
        "TEXT",
        "Broadcast TEXT, as does a line without a slash",
        _parse_broadcast,
    ),
    CommandSpec(
        "send", ("s",), "PEER TEXT", "Send TEXT to one member (name, ID or address)", _parse_send
    ),
    CommandSpec(
        "peers",
        ("p",),
        "",
        "List peers",
        _no_argument_parser("peers", ShowPeers()),
    ),
    CommandSpec(
        "members",
        (),
        "",
        "List all members of the cluster",
        _no_argument_parser("members", ShowMembers()),
    ),
    CommandSpec(
        "status",
        ("st",),
        "",
        "Show the status of this node",
        _no_argument_parser("status", ShowStatus()),
    ),
    CommandSpec("stats", (), "", "List all counters", _no_argument_parser("stats", ShowStats())),
    CommandSpec(
        "rounds",
        (),
        "",
        "List the latest anti-entropy rounds",
        _no_argument_parser("rounds", ShowRounds()),
    ),
    CommandSpec(
        "trace",
        ("t",),
        "TEXT",
        "Broadcast TEXT and trace its delivery",
        _parse_trace,
    ),
    CommandSpec(
        "traces", (), "", "List the latest traces", _no_argument_parser("traces", ShowTraces())
    ),
    CommandSpec("connect", ("dial",), "HOST:PORT", "Connect to an address", _parse_dial),
    CommandSpec(
        "deny",
        (),
        "PEER",
        "Ban a peer (name, ID or address) until the node restarts",
        _peer_parser("deny", Deny),
    ),
    CommandSpec("allow", (), "PEER", "Lift the ban on a peer", _peer_parser("allow", Allow)),
    CommandSpec(
        "forget",
        (),
        "PEER",
        "Remove a peer or member that is down",
        _peer_parser("forget", Forget),
    ),
    CommandSpec(
        "round",
        (),
        "",
        "Start an anti-entropy round now",
        _no_argument_parser("round", StartRound()),
    ),
    CommandSpec(
        "settings", (), "", "Show every setting", _no_argument_parser("settings", ShowSettings())
    ),
    CommandSpec(
        "rates",
        (),
        "",
        "App: focus the rate limits",
        _no_argument_parser("rates", ScreenAction("rates")),
    ),
    CommandSpec(
        "messages",
        (),
        "",
        "App: focus the messages",
        _no_argument_parser("messages", ScreenAction("messages")),
    ),
    CommandSpec(
        "traffic",
        (),
        "",
        "App: show traffic over time",
        _no_argument_parser("traffic", ScreenAction("traffic")),
    ),
    CommandSpec(
        "filter",
        (),
        "[WORDS]",
        "App: filter the focused panel; without WORDS, clear the filter",
        lambda rest: ScreenAction("filter", rest),
    ),
    CommandSpec(
        "pause",
        (),
        "",
        "App: pause or resume updates",
        _no_argument_parser("pause", ScreenAction("pause")),
    ),
    CommandSpec(
        "zoom",
        (),
        "",
        "App: zoom the focused panel in or out",
        _no_argument_parser("zoom", ScreenAction("zoom")),
    ),
    CommandSpec(
        "export",
        (),
        "",
        "App: export the messages shown to a file",
        _no_argument_parser("export", ScreenAction("export")),
    ),
    CommandSpec(
        "screenshot",
        (),
        "",
        "App: save a screenshot (SVG)",
        _no_argument_parser("screenshot", ScreenAction("screenshot")),
    ),
    CommandSpec(
        "undo",
        (),
        "",
        "App: undo the last action, within 10 s",
        _no_argument_parser("undo", ScreenAction("undo")),
    ),
    CommandSpec(
        "copy",
        (),
        "",
        "App: copy the address of the selected peer, or the selected message",
        _no_argument_parser("copy", ScreenAction("copy")),
    ),
    CommandSpec(
        "copy_id",
        (),
        "",
        "App: copy the ID of the selected peer or message",
        _no_argument_parser("copy_id", ScreenAction("copy_id")),
    ),
    CommandSpec(
        "sort",
        (),
        "",
        "App: sort the table by its next column",
        _no_argument_parser("sort", ScreenAction("sort")),
    ),
    CommandSpec(
        "reverse",
        (),
        "",
        "App: reverse the order of the table",
        _no_argument_parser("reverse", ScreenAction("reverse")),
    ),
    CommandSpec("help", ("h", "?"), "[COMMAND]", "List the commands", _parse_help),
    CommandSpec(
        "quit",
        ("exit", "q", "leave"),
        "",
        "Leave the cluster and quit",
        _no_argument_parser("quit", Quit()),
    ),
)

DETACH_HELP: Final = "Detach; the node keeps running"


def command_help(spec: CommandSpec, *, is_attached: bool) -> str:
    """What a command does, in an app of its own or in one that is attached to a node elsewhere."""
    return DETACH_HELP if is_attached and spec.name == "quit" else spec.help


# The word for what a key does, by the key's name; keys that only move or change the view are not here.
COMMAND_BY_KEY: Final = {
    **{
        each: each
        for each in ("help", "members", "status", "traffic", "settings", "screenshot", "undo")
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

_SPEC_BY_NAME: Final = {name: spec for spec in COMMANDS for name in (spec.name, *spec.aliases)}


def find_command(name: str) -> CommandSpec:
    """The command of that name, long or short, without its slash. Raises CommandError, which
    names the nearest one."""
    spec = _SPEC_BY_NAME.get(name.lower())
    if spec is None:
        raise CommandError(
            f"there is no /{name}; {suggest_command(name, _SPEC_BY_NAME, prefix='/')}"
        )
    return spec


def suggest_command(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Words that lead on: "did you mean ...?", or all there are when nothing comes near."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return "there are: " + ", ".join(prefix + each for each in names if len(each) > 2)


def parse_command(line: str) -> Command:
    """The command that `line` is. Raises CommandError; an empty line is one, too."""
    line = line.strip()
    if not line:
        raise CommandError("nothing to send: the line is empty")
    if line.startswith("//"):
        return Broadcast(_encode_text(line[1:]))
    if not line.startswith("/"):
        return Broadcast(_encode_text(line))
    name, _, rest = line[1:].partition(" ")
    return find_command(name).parse(rest.strip())


def complete_command(line: str, peers: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Whole lines that `line` may be the beginning of: slash commands, then the names of peers
    where a command wants one."""
    if not line.startswith("/"):
        return ()
    name, space, rest = line[1:].partition(" ")
    if not space:
        names = [spec.name for spec in COMMANDS if spec.name.startswith(name.lower())]
        return tuple(f"/{each} " if _SPEC_BY_NAME[each].arguments else f"/{each}" for each in names)
    spec = _SPEC_BY_NAME.get(name.lower())
    if spec is None or not spec.arguments.startswith("PEER") or '" ' in rest:
        return ()
    prefix = rest.removeprefix('"')
    if " " in rest and prefix == rest:
        return ()
    space = " " if spec.arguments != "PEER" else ""
    found = [each for each in peers if each.lower().startswith(prefix.lower())]
    return tuple(f"/{name} {_quote(each)}{space}" for each in found)


def _quote(name: str) -> str:
    return f'"{name}"' if " " in name else name
