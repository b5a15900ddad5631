"""The registry of commands: every act of a node or of the app, declared once.

Invariants:

- `COMMANDS` is the only list of commands. Slash commands, ``ctl`` subcommands, JSON ``cmd``, palette and help
  are derived from it; `SURFACES` says which kind of command appears where.
- A command is distinguished by its type, never by `==`: tuples of two types with the same fields are equal.
- Importing this module imports no Textual and no click.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from grapevine_proto.errors import GrapevineError
from grapevine_tui.host.access_state import STATE_ACTIONS, AccessState
from grapevine_tui.host.ask_members import AskMembers
from grapevine_tui.host.views import (
    NetworkView,
    ShowHolders,
    ShowMatrix,
    ShowRtt,
    ShowTopology,
)


class CommandError(GrapevineError):
    """A line cannot be parsed, or its command does not apply here. Nothing was done."""


# --- commands as values ---------------------------------------------------------------------------


class NodeAction(Enum):
    """An act of the node that takes no argument. The value is the command's name."""

    START_ROUND = "round"
    RELOAD = "reload"
    """Read settings and keys again and apply what a running node can."""
    LEAVE = "leave"


class Show(Enum):
    """What the node shows without an argument. The value is the command's name."""

    PEERS = "peers"
    STATUS = "status"
    """Identity, addresses, keys and health."""
    STATS = "stats"
    ROUNDS = "rounds"
    TRACES = "traces"
    DISCOVERED = "discover"
    """The addresses that sources of discovery have named."""
    ALERTS = "alerts"
    SETTINGS = "settings"
    SNAPSHOT = "snapshot"
    """Status, tables, counters, traffic and changed settings in one reply; the app writes them to a file."""


class ClientAction(Enum):
    """What a program asks at the control socket, without an argument. The value is the command's name."""

    WATCH = "watch"
    """The full state now, then every event on the same connection."""
    TABLES = "tables"
    """The full state now, as `WATCH` replies, without the events."""
    POLL = "poll"
    """Peers and counters in one reply."""


class ScreenAction(Enum):
    """An act on the app's screen that takes no argument. The value is the command's name."""

    RATES = "rates"
    MESSAGES = "messages"
    TRAFFIC = "traffic"
    QUERIES = "queries"
    PAUSE = "pause"
    ZOOM = "zoom"
    EXPORT = "export"
    SCREENSHOT = "screenshot"
    THEME = "theme"
    UNDO = "undo"
    REDIAL = "redial"
    COPY = "copy"
    COPY_ID = "copy_id"
    REVERSE = "reverse"


class Broadcast(NamedTuple):
    """Broadcast `payload`."""

    payload: bytes


class Publish(NamedTuple):
    """Publish `payload` under `topic`. Nodes do not deliver it once it is `expires_s` old. Under the name
    `retain` it is kept for later subscribers."""

    topic: str
    payload: bytes
    expires_s: int | None = None
    retain: str | None = None


class ChangeTags(NamedTuple):
    """Show or change the tags of this node until its next start: `action` is one of `TAG_ACTIONS`, `words`
    are ``name=value`` or, to unset, names."""

    action: str = "list"
    words: tuple[str, ...] = ()


class Trace(NamedTuple):
    """Broadcast `payload`; receivers confirm delivery."""

    payload: bytes


class Send(NamedTuple):
    """Send `payload` to one member. `peer_ref` is a name, an ID or a prefix of one, or an address."""

    peer_ref: str
    payload: bytes


class Dial(NamedTuple):
    """Dial `address`, ``host:port``."""

    address: str


class Deny(NamedTuple):
    """Ban an identity, for `for_s` seconds or until the node restarts: `peer_ref` as in `Send`, or any
    complete ID."""

    peer_ref: str
    for_s: int | None = None


class Allow(NamedTuple):
    """Lift the ban on an identity."""

    peer_ref: str


class Forget(NamedTuple):
    """Remove a member that is down: `peer_ref` as in `Send`, or any complete ID."""

    peer_ref: str


class SetSettings(NamedTuple):
    """Apply and save settings: (name, value as typed) each."""

    changes: tuple[tuple[str, str], ...]


class ShowMembers(NamedTuple):
    """The other members of the cluster, connected or not; with `tags`, those that have all of them, in an
    order of `MEMBER_ORDERS`."""

    tags: Mapping[str, str] | None = None
    sort: str = "name"


class MuteAlert(NamedTuple):
    """Mute the alert `name`, for `for_s` seconds or until it is unmuted."""

    name: str
    for_s: int | None = None


class UnmuteAlert(NamedTuple):
    """Unmute the alert `name`."""

    name: str


class PastRows(NamedTuple):
    """A page of what the history keeps; the fields are those of `history.pages.read_page`."""

    words: str = ""
    since: str = ""
    before: str = ""
    at: str = ""
    limit: int | None = None
    older_than: int | None = None
    newer_than: int | None = None
    around: int | None = None
    search_ms: int | None = None


class ShowEvents(PastRows):
    """What happened to the node, its peers and the members, and why."""


class SearchHistory(PastRows):
    """Messages of the past."""


class ExportHistory(NamedTuple):
    """Write what the history keeps and `words` match to the new file `file_name`."""

    file_name: str
    words: str = ""


class ImportHistory(NamedTuple):
    """Add the rows of an exported file to the history."""

    file_name: str


class PruneHistory(NamedTuple):
    """Delete what is older than `before`, a time as people write it, and what is beyond the limits."""

    before: str = ""


class ShowHelp(NamedTuple):
    """The commands; `command` is the name of one, or empty for all."""

    command: str = ""


class Filter(NamedTuple):
    """Filter the focused panel by `text`; empty clears the filter."""

    text: str


class Sort(NamedTuple):
    """Sort the focused table by `column`, a part of its title; by the next column if that is empty."""

    column: str = ""


class Follow(NamedTuple):
    """Show only the messages of one author: `peer_ref` as in `Send`."""

    peer_ref: str


class ChooseLayout(NamedTuple):
    """Show the boxes of a preset of the main screen, one of `LAYOUTS`."""

    name: str


class ShowTab(NamedTuple):
    """Show the messages of the saved filter `name`; all if it is empty."""

    name: str = ""


class Find(NamedTuple):
    """Go to the messages that match `words` one by one; with nothing, look for nothing."""

    words: str = ""


class SetHighlight(NamedTuple):
    """Let what matches `words` stand out, under a name; with `saves`, also after a restart."""

    name: str
    words: str
    saves: bool = False


class RemoveHighlight(NamedTuple):
    """Remove the highlight `name`; with `saves`, also from the config file."""

    name: str
    saves: bool = False


class ToggleBox(NamedTuple):
    """Switch a box of the main screen on or off, one of `BOXES`."""

    name: str


class ShowContext(NamedTuple):
    """Show the app over the context `name`, or the one of that number; the table of all if it is empty."""

    name: str = ""


class MuteContext(NamedTuple):
    """Mute the alerts of the context `name` in this app, or unmute them; of the one shown if it is empty."""

    name: str = ""


class ShowFleet(NamedTuple):
    """Show a table over all contexts, one of `FLEET_TABLES`."""

    table: str


class Run(NamedTuple):
    """Run the own command `name` on the selected row."""

    name: str


class GoTo(NamedTuple):
    """Show another time of a recording: `time` as people write it, or ``+10`` or ``-60`` seconds."""

    time: str


class Subscribe(NamedTuple):
    """Show the messages of topics that `pattern` selects: in the app a filter, elsewhere a stream."""

    pattern: str


class MakeReport(NamedTuple):
    """A report for a ticket, with the events since `since`; in HTML, else in Markdown."""

    since: str = "1h"
    is_html: bool = False


NodeAct: TypeAlias = (
    Broadcast
    | Publish
    | AskMembers
    | AccessState
    | ChangeTags
    | Trace
    | Send
    | Dial
    | Deny
    | Allow
    | Forget
    | SetSettings
    | NodeAction
)
Query: TypeAlias = Show | ShowMembers | ShowHelp | Subscribe
HistoryCommand: TypeAlias = (
    ShowEvents | SearchHistory | ExportHistory | ImportHistory | PruneHistory | MakeReport
)
PeerCommand: TypeAlias = Dial | Deny | Allow | Forget
AlertCommand: TypeAlias = MuteAlert | UnmuteAlert
HighlightCommand: TypeAlias = SetHighlight | RemoveHighlight
FleetCommand: TypeAlias = ShowContext | MuteContext | ShowFleet
AppAct: TypeAlias = (
    ScreenAction
    | Filter
    | Sort
    | Follow
    | GoTo
    | Run
    | ChooseLayout
    | ToggleBox
    | ShowTab
    | Find
    | FleetCommand
)
PlainCommand: TypeAlias = NodeAction | Show | ScreenAction | ClientAction
Command: TypeAlias = (
    NodeAct
    | Query
    | NetworkView
    | HistoryCommand
    | AlertCommand
    | HighlightCommand
    | AppAct
    | ClientAction
)


# --- the registry ---------------------------------------------------------------------------------


class Surface(Enum):
    """A place where a command can be given or is listed."""

    SLASH = "slash command"
    CTL = "ctl command"
    JSON = "JSON cmd"
    PALETTE = "command palette"
    HELP = "help screen"


class Kind(Enum):
    """What a command acts on, which decides its surfaces."""

    NODE_ACT = "changes the node"
    QUERY = "reads the node"
    APP_ACT = "changes the app's screen"
    CLIENT = "serves programs on the control socket"


SURFACES: Final[Mapping[Kind, frozenset[Surface]]] = {
    Kind.NODE_ACT: frozenset(Surface),
    Kind.QUERY: frozenset(Surface),
    Kind.APP_ACT: frozenset({Surface.SLASH, Surface.PALETTE, Surface.HELP}),
    Kind.CLIENT: frozenset({Surface.JSON}),
}


class ArgumentType(Enum):
    """How an argument is read. `PAYLOAD`, `WORDS` and `CHANGES` take the rest of a line."""

    PEER = "a name, an ID or a prefix of one, or an address"
    ADDRESS = "host:port"
    TOPIC = "a topic"
    PATTERN = "a pattern of topics"
    NAME = "one word"
    CHOICE = "one of a few words"
    KEY = "a key of the keyed state, or the beginning of keys"
    TAGS = "tags, NAME=VALUE each, or their names"
    PAYLOAD = "text or bytes to send"
    CHANGES = "settings and their values"
    WORDS = "text, possibly empty"
    COMMAND = "the name of a command"


class Argument(NamedTuple):
    """One argument: `name` is its JSON field and ``ctl`` parameter, `metavar` what people see. `choices`
    are the words of a `CHOICE`; without one it is the first."""

    name: str
    metavar: str
    type: ArgumentType
    is_required: bool = True
    choices: tuple[str, ...] = ()


class OptionType(Enum):
    """How an option is read."""

    NUMBER = "a whole number"
    TEXT = "text"
    FLAG = "given or not"
    TAGS = "NAME=VALUE, repeatable; an object in JSON"


class CommandOption(NamedTuple):
    """A value that may be given by name: `name` is its JSON field and the parameter of `make`, `flag` its
    option of ``ctl`` and after a slash. `help` is as in `CommandSpec`."""

    name: str
    flag: str
    metavar: str
    help: str
    type: OptionType = OptionType.NUMBER


class CommandSpec(NamedTuple):
    """One command.

    `make` builds the command from its parsed arguments, in order, and from the `options` that are given.
    `help` is one line without a period. `aliases` work wherever the name works; `shorthands` only after a
    slash. `method` is the method of `Node` or of the host that does it, the name if None, or empty if there
    is none.
    """

    name: str
    kind: Kind
    help: str
    make: Callable[..., Command]
    arguments: tuple[Argument, ...] = ()
    options: tuple[CommandOption, ...] = ()
    aliases: tuple[str, ...] = ()
    shorthands: tuple[str, ...] = ()
    method: str | None = None

    @property
    def usage(self) -> str:
        parts = [
            each.metavar if each.is_required else f"[{each.metavar}]" for each in self.arguments
        ]
        return " ".join([f"/{self.name}", *(["[OPTIONS]"] if self.options else []), *parts])

    @property
    def title(self) -> str:
        """The name as the palette shows it."""
        return self.name.replace("_", " ").capitalize()

    @property
    def needs_arguments(self) -> bool:
        return any(each.is_required for each in self.arguments)

    def is_on(self, surface: Surface) -> bool:
        return surface in SURFACES[self.kind]


MEMBER_ORDERS: Final = ("name", "zone", "rtt")
LAYOUTS: Final = ("all", "chat", "traffic", "repair", "wall")
BOXES: Final = ("peers", "messages", "rates", "rounds", "traffic")
FLEET_TABLES: Final = ("contexts", "members", "messages", "alerts")
MAX_DENY_S: Final = 365 * 86_400
TAG_ACTIONS: Final = ("list", "set", "unset")


def _make_query(name: str, payload: bytes | None, **options: Any) -> AskMembers:
    return AskMembers(name, payload or b"", **options)


def _make_state(
    action: str,
    key: str,
    payload: bytes | None,
    ttl_s: int | None = None,
    durable: bool = False,
    after: str = "",
) -> AccessState:
    """The command, if its parts make sense together. Raises CommandError."""
    if action in ("get", "set", "del") and not key:
        raise CommandError(f"state {action} needs KEY")
    if action == "set" and payload is None:
        raise CommandError("state set needs a value after KEY")
    if action != "set" and payload:
        raise CommandError(f"state {action} takes no value")
    if action != "set" and (ttl_s is not None or durable):
        raise CommandError("--ttl and --durable belong to state set")
    return AccessState(action, key, payload or b"", ttl_s, durable, after)


def _check_for(for_s: int | None) -> None:
    if for_s is not None and not 1 <= for_s <= MAX_DENY_S:
        raise CommandError(f"for: expected 1 to {MAX_DENY_S:,} seconds, got {for_s}")


def _make_deny(peer_ref: str, for_s: int | None = None) -> Deny:
    _check_for(for_s)
    return Deny(peer_ref, for_s)


def _make_mute(name: str, for_s: int | None = None) -> MuteAlert:
    _check_for(for_s)
    return MuteAlert(name, for_s)


def _make_members(tags: Mapping[str, str] | None = None, sort: str = "name") -> ShowMembers:
    if sort not in MEMBER_ORDERS:
        expected = " or ".join(MEMBER_ORDERS)
        raise CommandError(f"unknown order {sort!r:.80}; expected {expected}")
    return ShowMembers(tags, sort)


def _make_tags(action: str, words: tuple[str, ...]) -> ChangeTags:
    if (action == "list") is bool(words):
        problem = "takes no tags" if words else "needs tags"
        raise CommandError(f"tags {action} {problem}")
    if action == "set":
        parse_changes(words)
    elif any("=" in each for each in words):
        raise CommandError("tags unset needs names, without =")
    return ChangeTags(action, words)


_TEXT: Final = Argument("text", "TEXT", ArgumentType.PAYLOAD)
_TOPIC: Final = Argument("topic", "TOPIC", ArgumentType.TOPIC)
_PATTERN: Final = Argument("pattern", "PATTERN", ArgumentType.PATTERN)
_PEER: Final = Argument("peer", "PEER", ArgumentType.PEER)
_ALERT: Final = Argument("name", "ALERT", ArgumentType.NAME)
_TAGS_OPTION: Final = CommandOption(
    "tags", "--tag", "NAME=VALUE", "Only members with this tag; repeatable", OptionType.TAGS
)


_HIGHLIGHT: Final = Argument("name", "NAME", ArgumentType.NAME)
_SAVE_OPTION: Final = CommandOption(
    "saves", "--save", "", "Write it to the config file", OptionType.FLAG
)
_WORDS: Final = Argument("words", "WORDS", ArgumentType.WORDS, is_required=False)
_PAGE_OPTIONS: Final = (
    CommandOption(
        "since",
        "--since",
        "TIME",
        "Rows since this time, such as 1h, 19:05 or yesterday",
        OptionType.TEXT,
    ),
    CommandOption("before", "--before", "TIME", "Rows before this time", OptionType.TEXT),
    CommandOption("at", "--at", "TIME", "Rows around this time", OptionType.TEXT),
    CommandOption("limit", "--limit", "N", "At most N rows, up to 1,000 [200]"),
    CommandOption("older_than", "--older-than", "KEY", "Rows before the row with this key"),
    CommandOption("newer_than", "--newer-than", "KEY", "Rows after the row with this key"),
    CommandOption("around", "--around", "KEY", "Rows around the row with this key"),
    CommandOption("search_ms", "--search-ms", "MS", "Search for at most MS milliseconds [2000]"),
)


_KIND_OF_PLAIN: Final[Mapping[type[PlainCommand], Kind]] = {
    NodeAction: Kind.NODE_ACT,
    Show: Kind.QUERY,
    ScreenAction: Kind.APP_ACT,
    ClientAction: Kind.CLIENT,
}


def _plain(command: PlainCommand, help_text: str, **more: Any) -> CommandSpec:
    return CommandSpec(
        command.value, _KIND_OF_PLAIN[type(command)], help_text, lambda: command, **more
    )


COMMANDS: Final[tuple[CommandSpec, ...]] = (
    CommandSpec(
        "broadcast",
        Kind.NODE_ACT,
        "Broadcast TEXT to all members",
        Broadcast,
        (_TEXT,),
        shorthands=("b",),
    ),
    CommandSpec(
        "send",
        Kind.NODE_ACT,
        "Send TEXT to one member (name, ID or address)",
        Send,
        (Argument("to", "PEER", ArgumentType.PEER), _TEXT),
        shorthands=("s",),
    ),
    CommandSpec(
        "publish",
        Kind.NODE_ACT,
        "Publish TEXT under a topic, such as deploy.web",
        Publish,
        (_TOPIC, _TEXT),
        options=(
            CommandOption(
                "expires_s", "--expires", "SECONDS", "Do not deliver it once it is this old"
            ),
            CommandOption(
                "retain",
                "--retain",
                "NAME",
                "Keep it for later subscribers until NAME is published again",
                OptionType.TEXT,
            ),
        ),
    ),
    CommandSpec(
        "subscribe",
        Kind.QUERY,
        "Show messages whose topic matches PATTERN (deploy.>)",
        Subscribe,
        (_PATTERN,),
    ),
    CommandSpec(
        "query",
        Kind.NODE_ACT,
        "Ask all members the query NAME and gather their answers",
        _make_query,
        (
            Argument("name", "NAME", ArgumentType.NAME),
            Argument("text", "TEXT", ArgumentType.PAYLOAD, is_required=False),
        ),
        options=(
            CommandOption("zone", "--zone", "NAME", "Ask the members of one zone", OptionType.TEXT),
            _TAGS_OPTION,
            CommandOption("nearest", "--nearest", "N", "Ask the N nearest members, up to 64"),
            CommandOption("limit", "--limit", "N", "Stop after N answers"),
            CommandOption("sample", "--sample", "N", "Ask about N members, chosen at random"),
            CommandOption("timeout_s", "--timeout", "SECONDS", "Stop after this time, at most 25"),
        ),
    ),
    _plain(Show.PEERS, "List the peers of this node", shorthands=("p",)),
    CommandSpec(
        "members",
        Kind.QUERY,
        "List the other members",
        _make_members,
        options=(
            _TAGS_OPTION,
            CommandOption(
                "sort", "--sort", "ORDER", "By name, zone or rtt [name]", OptionType.TEXT
            ),
        ),
    ),
    CommandSpec(
        "rtt",
        Kind.QUERY,
        "Show the round-trip time between two members, or to one",
        ShowRtt,
        (_PEER, Argument("other", "PEER", ArgumentType.PEER, is_required=False)),
    ),
    CommandSpec(
        "matrix",
        Kind.QUERY,
        "Show the round-trip times between all members",
        ShowMatrix,
        method="rtt",
    ),
    CommandSpec(
        "topology",
        Kind.QUERY,
        "Show which members are linked, zone by zone",
        ShowTopology,
        options=(
            CommandOption(
                "message",
                "--message",
                "ID",
                "Also show the tree on which that message spread",
                OptionType.TEXT,
            ),
        ),
        method="query",
    ),
    CommandSpec(
        "has",
        Kind.QUERY,
        "Show which members have the message ID, and how it reached them",
        ShowHolders,
        (Argument("message", "ID", ArgumentType.NAME),),
        method="query",
    ),
    CommandSpec(
        "state",
        Kind.NODE_ACT,
        "List, read, watch or change the keyed state",
        _make_state,
        (
            Argument(
                "action",
                "|".join(STATE_ACTIONS),
                ArgumentType.CHOICE,
                is_required=False,
                choices=STATE_ACTIONS,
            ),
            Argument("key", "KEY", ArgumentType.KEY, is_required=False),
            Argument("text", "TEXT", ArgumentType.PAYLOAD, is_required=False),
        ),
        options=(
            CommandOption("ttl_s", "--ttl", "SECONDS", "Delete the value after this time"),
            CommandOption(
                "durable",
                "--durable",
                "",
                "Let another member keep it if this node is gone",
                OptionType.FLAG,
            ),
            CommandOption(
                "after", "--after", "KEY", "List the keys that follow this one", OptionType.TEXT
            ),
        ),
    ),
    CommandSpec(
        "tags",
        Kind.NODE_ACT,
        "Show or change the tags of this node until its next start",
        _make_tags,
        (
            Argument(
                "action",
                "|".join(TAG_ACTIONS),
                ArgumentType.CHOICE,
                is_required=False,
                choices=TAG_ACTIONS,
            ),
            Argument("tags", "NAME=VALUE...", ArgumentType.TAGS, is_required=False),
        ),
    ),
    _plain(
        Show.STATUS,
        "Show identity, addresses, keys and health",
        shorthands=("st",),
        method="",
    ),
    _plain(Show.STATS, "Show all counters"),
    _plain(Show.ROUNDS, "List the latest anti-entropy rounds"),
    CommandSpec(
        "trace",
        Kind.NODE_ACT,
        "Broadcast TEXT and trace its delivery",
        Trace,
        (_TEXT,),
        shorthands=("t",),
    ),
    _plain(Show.TRACES, "List the latest traces"),
    _plain(
        Show.DISCOVERED,
        "Show the addresses that were found, and by which source",
        method="discovery_sources",
    ),
    CommandSpec(
        "dial",
        Kind.NODE_ACT,
        "Connect to HOST:PORT",
        Dial,
        (Argument("address", "HOST:PORT", ArgumentType.ADDRESS),),
        aliases=("connect",),
    ),
    CommandSpec(
        "deny",
        Kind.NODE_ACT,
        "Ban a peer (name, ID or address) for a time or until restart",
        _make_deny,
        (_PEER,),
        options=(CommandOption("for_s", "--for", "SECONDS", "Lift the ban after so long"),),
    ),
    CommandSpec("allow", Kind.NODE_ACT, "Lift the ban on a peer", Allow, (_PEER,)),
    CommandSpec("forget", Kind.NODE_ACT, "Remove a peer or member that is down", Forget, (_PEER,)),
    _plain(NodeAction.START_ROUND, "Start an anti-entropy round", method="start_round"),
    _plain(
        Show.ALERTS,
        "List the alerts and which of them fire",
    ),
    CommandSpec(
        "mute",
        Kind.NODE_ACT,
        "Mute an alert for a time or until it is unmuted",
        _make_mute,
        (_ALERT,),
        options=(CommandOption("for_s", "--for", "SECONDS", "Unmute it after so long"),),
    ),
    CommandSpec("unmute", Kind.NODE_ACT, "Unmute an alert", UnmuteAlert, (_ALERT,)),
    CommandSpec(
        "events",
        Kind.QUERY,
        "Show what happened to nodes of the cluster, and why",
        ShowEvents,
        (_WORDS,),
        options=_PAGE_OPTIONS,
        method="",
    ),
    CommandSpec(
        "history",
        Kind.QUERY,
        "Search the messages that this node has kept",
        SearchHistory,
        (_WORDS,),
        options=_PAGE_OPTIONS,
        method="",
    ),
    CommandSpec(
        "history_export",
        Kind.NODE_ACT,
        "Write the history to a new FILE (JSON Lines)",
        ExportHistory,
        (Argument("file_name", "FILE", ArgumentType.NAME), _WORDS),
        method="export_history",
    ),
    CommandSpec(
        "history_import",
        Kind.NODE_ACT,
        "Add an exported FILE to the history",
        ImportHistory,
        (Argument("file_name", "FILE", ArgumentType.NAME),),
        method="import_history",
    ),
    CommandSpec(
        "history_prune",
        Kind.NODE_ACT,
        "Delete history older than TIME or over its limits",
        PruneHistory,
        (Argument("before", "TIME", ArgumentType.WORDS, is_required=False),),
        method="prune_history",
    ),
    _plain(
        Show.SNAPSHOT,
        "Write status, tables and counters as one JSON",
        method="",
    ),
    CommandSpec(
        "report",
        Kind.QUERY,
        "Write a report for a ticket: status, members, events, worst peers, graphs",
        MakeReport,
        options=(
            CommandOption(
                "since", "--since", "TIME", "Events from that time on [1h]", OptionType.TEXT
            ),
            CommandOption("is_html", "--html", "", "HTML instead of Markdown", OptionType.FLAG),
        ),
        method="",
    ),
    _plain(
        Show.SETTINGS,
        "Show every setting with its value and source",
        method="",
    ),
    CommandSpec(
        "set_settings",
        Kind.NODE_ACT,
        "Change, apply and save settings",
        SetSettings,
        (Argument("changes", "NAME=VALUE...", ArgumentType.CHANGES),),
        method="reconfigure",
    ),
    _plain(NodeAction.RELOAD, "Reload settings and keys", method="reconfigure"),
    _plain(ScreenAction.RATES, "Go to the rate limits"),
    _plain(ScreenAction.MESSAGES, "Go to the messages"),
    _plain(ScreenAction.TRAFFIC, "Show traffic over time"),
    _plain(ScreenAction.QUERIES, "Show the latest queries of this app and their answers"),
    CommandSpec(
        "filter",
        Kind.APP_ACT,
        "Filter the focused panel; without WORDS, clear the filter",
        Filter,
        (Argument("words", "WORDS", ArgumentType.WORDS, is_required=False),),
    ),
    CommandSpec(
        "find",
        Kind.APP_ACT,
        "Go to the messages that match WORDS, with those around them",
        Find,
        (Argument("words", "WORDS", ArgumentType.WORDS, is_required=False),),
    ),
    CommandSpec(
        "highlight",
        Kind.APP_ACT,
        "Let messages and events that match WORDS stand out",
        SetHighlight,
        (_HIGHLIGHT, Argument("words", "WORDS", ArgumentType.WORDS)),
        options=(_SAVE_OPTION,),
    ),
    CommandSpec(
        "unhighlight",
        Kind.APP_ACT,
        "Remove a highlight",
        RemoveHighlight,
        (_HIGHLIGHT,),
        options=(_SAVE_OPTION,),
    ),
    _plain(ScreenAction.PAUSE, "Pause or resume updates of the screen"),
    _plain(ScreenAction.ZOOM, "Zoom the focused panel in or out"),
    _plain(ScreenAction.EXPORT, "Export the messages shown to a file (JSON Lines)"),
    _plain(ScreenAction.SCREENSHOT, "Save a screenshot (SVG)"),
    _plain(ScreenAction.THEME, "Choose a theme"),
    _plain(ScreenAction.UNDO, "Undo the last action, within 10 s"),
    _plain(ScreenAction.REDIAL, "Dial the selected peer again"),
    _plain(ScreenAction.COPY, "Copy the address of the selected peer, or the selected message"),
    _plain(ScreenAction.COPY_ID, "Copy the ID of the selected peer or message"),
    CommandSpec(
        "sort",
        Kind.APP_ACT,
        "Sort the table by COLUMN; without it, by the next one",
        Sort,
        (Argument("column", "COLUMN", ArgumentType.WORDS, is_required=False),),
    ),
    CommandSpec(
        "go_to",
        Kind.APP_ACT,
        "Show another TIME of a recording: 18:42:10, +10 or -60 seconds",
        GoTo,
        (Argument("time", "TIME", ArgumentType.NAME),),
    ),
    CommandSpec("follow", Kind.APP_ACT, "Show only the messages of PEER", Follow, (_PEER,)),
    CommandSpec(
        "tab",
        Kind.APP_ACT,
        "Show the messages of the saved filter NAME; without it, all",
        ShowTab,
        (Argument("name", "NAME", ArgumentType.NAME, is_required=False),),
    ),
    CommandSpec(
        "layout",
        Kind.APP_ACT,
        "Choose the boxes of the main screen by a preset",
        ChooseLayout,
        (
            Argument(
                "name", "|".join(LAYOUTS), ArgumentType.CHOICE, is_required=False, choices=LAYOUTS
            ),
        ),
    ),
    CommandSpec(
        "box",
        Kind.APP_ACT,
        "Switch a box of the main screen on or off",
        ToggleBox,
        (Argument("name", "|".join(BOXES), ArgumentType.CHOICE, choices=BOXES),),
    ),
    CommandSpec(
        "ctx",
        Kind.APP_ACT,
        "Show the context NAME, or that number; without it, the table of all",
        ShowContext,
        (Argument("name", "NAME", ArgumentType.NAME, is_required=False),),
        aliases=("context",),
    ),
    CommandSpec(
        "mute_context",
        Kind.APP_ACT,
        "Mute or unmute the alerts of the context NAME, or of this one, in this app only",
        MuteContext,
        (Argument("name", "NAME", ArgumentType.NAME, is_required=False),),
    ),
    CommandSpec(
        "fleet",
        Kind.APP_ACT,
        "Show a table over all contexts",
        ShowFleet,
        (
            Argument(
                "table",
                "|".join(FLEET_TABLES),
                ArgumentType.CHOICE,
                is_required=False,
                choices=FLEET_TABLES,
            ),
        ),
    ),
    CommandSpec(
        "run",
        Kind.APP_ACT,
        "Run the command NAME of [app.commands] on the selected row",
        Run,
        (Argument("name", "NAME", ArgumentType.NAME),),
    ),
    _plain(ScreenAction.REVERSE, "Reverse the order of the table"),
    _plain(ClientAction.WATCH, "Reply with the full state, then send every event"),
    _plain(ClientAction.TABLES, "Reply with the full state"),
    _plain(ClientAction.POLL, "Reply with peers and counters"),
    CommandSpec(
        "help",
        Kind.QUERY,
        "List the commands, or explain one",
        ShowHelp,
        (Argument("command", "COMMAND", ArgumentType.COMMAND, is_required=False),),
        shorthands=("h", "?"),
        method="",
    ),
    _plain(
        NodeAction.LEAVE,
        "Leave the cluster and stop the node",
        aliases=("quit", "exit"),
        shorthands=("q",),
    ),
)

ONE_CONTEXT_COMMANDS: Final = frozenset({"deny", "set_settings", "reload", "history_export"})
"""Never run on all contexts at once: what may cut members off, and what writes one file."""

DETACH_HELP: Final = "Detach; the node keeps running (ctl leave stops it)"


def command_help(spec: CommandSpec, *, is_attached: bool) -> str:
    """The help of a command, in an app with its own node or in one attached to another process."""
    return DETACH_HELP if is_attached and spec.name == "leave" else spec.help


def commands_on(surface: Surface) -> tuple[CommandSpec, ...]:
    """The commands of `surface`, in the order of the registry."""
    return tuple(each for each in COMMANDS if each.is_on(surface))


def commands_by_name(surface: Surface) -> dict[str, CommandSpec]:
    """The commands of `surface` by name and alias; after a slash, by shorthand as well."""
    return {
        name: spec
        for spec in commands_on(surface)
        for name in (
            spec.name,
            *spec.aliases,
            *(spec.shorthands if surface is Surface.SLASH else ()),
        )
    }


SLASH_COMMANDS: Final = commands_by_name(Surface.SLASH)


def find_command(name: str) -> CommandSpec:
    """The slash command of that name, alias or shorthand, without its slash.

    Raises:
        CommandError: there is none; the message suggests the nearest one.
    """
    spec = SLASH_COMMANDS.get(name.lower())
    if spec is None:
        suggestion = suggest_command(name, SLASH_COMMANDS, prefix="/")
        raise CommandError(f"unknown command /{name}; {suggestion or '/help lists them'}")
    return spec


def suggest_command(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """``did you mean X?`` for the nearest of `known`; empty if none is near."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f"did you mean {prefix}{close[0]}?" if close else ""


def parse_command_name(text: str) -> str:
    """The name of the command that help is asked for; empty for all. Raises CommandError."""
    return find_command(text.removeprefix("/")).name if text else ""


def parse_choice(argument: Argument, word: str) -> str:
    """The choice that `word` is; the first if it is empty. Raises CommandError."""
    if not word:
        return argument.choices[0]
    if word.lower() not in argument.choices:
        suggestion = suggest_command(word, argument.choices)
        expected = suggestion or f"expected one of {', '.join(argument.choices)}"
        raise CommandError(f"unknown {argument.name} {word!r:.80}; {expected}")
    return word.lower()


def parse_changes(words: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """``NAME=VALUE`` words as (name, value) pairs. Raises CommandError."""
    changes: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise CommandError(f"expected NAME=VALUE, got {word!r:.80}")
        if name in changes:
            raise CommandError(f"{name!r:.80} is set twice")
        changes[name] = value
    return tuple(changes.items())
