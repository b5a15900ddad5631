"""Slash commands: what is typed becomes one command, and is completed while it is typed.

Invariants:

- One line becomes one command or one `CommandError` for people to read; parsing has no effects.
- A line that does not begin with a slash is broadcast. ``//x`` broadcasts ``/x``.
- Options (``--zone eu``) stand before the text of a command; ``--`` ends them, so that a text can begin with
  two hyphens.
- Importing this module imports no Textual and no click.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple, assert_never

from grapevine_proto.topics import topic_patterns
from grapevine_tui.control.commands import (
    SLASH_COMMANDS,
    Argument,
    ArgumentType,
    Broadcast,
    Command,
    CommandError,
    CommandOption,
    CommandSpec,
    OptionType,
    Surface,
    commands_on,
    find_command,
    parse_changes,
    parse_choice,
    parse_command_name,
)

_OPTION: Final = re.compile(r"(--[^\s=]*)(?:=|\s+|$)")
_STRAY_KEYS: Final = re.compile(r"[^\s/]{1,3}(?=/)|:")  # before a command: the box had the focus


class KnownNames(NamedTuple):
    """Names that complete a line."""

    peers: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    own_commands: tuple[str, ...] = ()
    tabs: tuple[str, ...] = ()
    highlights: tuple[str, ...] = ()
    contexts: tuple[str, ...] = ()


NO_NAMES: Final = KnownNames()


def parse_command(line: str) -> Command:
    """Parse what was typed.

    Raises:
        CommandError: the line is empty, or its command is unknown or incomplete.
    """
    line = line.strip()
    if not line:
        raise CommandError("nothing to send: the line is empty")
    if line.startswith("//"):
        return Broadcast(encode_text(line[1:]))
    if not line.startswith("/"):
        return Broadcast(encode_text(line))
    name, _, rest = line[1:].partition(" ")
    spec = find_command(name)
    return _parse_arguments(spec, rest.strip())


def _parse_arguments(spec: CommandSpec, rest: str) -> Command:
    if rest and not spec.arguments and not spec.options:
        raise CommandError(f"/{spec.name} takes no arguments")
    values: list[Any] = []
    options = _Options(spec)
    for argument in spec.arguments:
        rest = options.take(rest)
        if argument.is_required and not rest:
            raise CommandError(f"missing {argument.metavar}; usage: {spec.usage}")
        value, rest = _parse_argument(argument, rest, spec, is_last=argument is spec.arguments[-1])
        values.append(value)
    if options.take(rest):
        raise CommandError(f"too many arguments; usage: {spec.usage}")
    return spec.make(*values, **options.values)


class _Options:
    """Takes the options of one line."""

    def __init__(self, spec: CommandSpec) -> None:
        self.values: dict[str, Any] = {}
        self._spec = spec
        self._has_ended = not spec.options

    def take(self, rest: str) -> str:
        """Take the options that `rest` begins with; return what follows them."""
        while not self._has_ended and (found := _OPTION.match(rest)) is not None:
            flag, rest = found[1], rest[found.end() :]
            if flag == "--":
                self._has_ended = True
                break
            option = find_option(self._spec, flag)
            if option is None:
                known = ", ".join(each.flag for each in self._spec.options)
                raise CommandError(
                    f"/{self._spec.name} has no option {flag}; it has {known}. "
                    "To send a text that begins so, put -- before it"
                )
            if option.type is OptionType.FLAG:
                self.values[option.name] = True
                continue
            word, rest = _split_word(rest)
            value = _parse_value(option, word)
            if isinstance(value, dict):  # repeatable
                value = self.values.get(option.name, {}) | value
            self.values[option.name] = value
        return rest.strip()


def find_option(spec: CommandSpec, flag: str) -> CommandOption | None:
    """The option of a command that `flag` names; None if there is none."""
    return next((each for each in spec.options if each.flag == flag), None)


def _parse_value(option: CommandOption, text: str) -> int | str | dict[str, str]:
    if not text:
        raise CommandError(f"{option.flag} needs {option.metavar}")
    match option.type:
        case OptionType.TEXT | OptionType.FLAG:
            return text
        case OptionType.TAGS:
            return dict(parse_changes([text]))
        case OptionType.NUMBER:
            try:
                return int(text)
            except ValueError:
                problem = f"{option.flag} needs a whole number, not {text!r:.80}"
                raise CommandError(problem) from None
        case _:
            assert_never(option.type)


def _split_word(rest: str) -> tuple[str, str]:
    """(the first word of `rest`, which quotes keep together; what follows it)."""
    if rest.startswith('"') and '"' in rest[1:]:
        word, _, rest = rest[1:].partition('"')
    else:
        word, _, rest = rest.partition(" ")
    return word, rest.strip()


def _parse_argument(
    argument: Argument, rest: str, spec: CommandSpec, *, is_last: bool
) -> tuple[Any, str]:
    """(value of `argument`, what of `rest` is left)."""
    match argument.type:
        case ArgumentType.PEER:
            if is_last and not (rest.startswith('"') and '"' in rest[1:]):
                value, rest = rest, ""  # a name that contains spaces
            else:
                value, rest = _split_word(rest)
            if argument.is_required and not value.strip():
                raise CommandError(f"missing {argument.metavar}; usage: {spec.usage}")
            return value, rest
        case (
            ArgumentType.ADDRESS
            | ArgumentType.TOPIC
            | ArgumentType.PATTERN
            | ArgumentType.NAME
            | ArgumentType.KEY
        ):
            value, _, rest = rest.partition(" ")
            return value, rest.strip()
        case ArgumentType.CHOICE:
            word, _, rest = rest.partition(" ")
            return parse_choice(argument, word), rest.strip()
        case ArgumentType.PAYLOAD:
            return encode_text(rest) if rest or argument.is_required else None, ""
        case ArgumentType.CHANGES:
            return parse_changes(_split_words(rest)), ""
        case ArgumentType.TAGS:
            return tuple(_split_words(rest)), ""
        case ArgumentType.WORDS:
            return rest, ""
        case ArgumentType.COMMAND:
            return parse_command_name(rest), ""
        case _:
            assert_never(argument.type)


def encode_text(text: str) -> bytes:
    """`text` in UTF-8. Raises CommandError if it is not valid Unicode."""
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: bytes that were not UTF-8
        raise CommandError("the text is not valid Unicode, so it cannot be sent as UTF-8") from None


def _split_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise CommandError(f"NAME=VALUE: {error}") from None


def intended_command(line: str, write_key: str = "i") -> str:
    """The slash command that `line` was probably meant to be, with the keys before it that nobody meant to
    send; empty if it is a text. ``i/query x`` is typed by an operator who does not see that the box has the
    focus already.

    Only `write_key`, which focuses the box, counts before a shorthand: ``s/b`` is a text.
    """
    text = line.strip()
    found = _STRAY_KEYS.match(text)
    if found is None:
        return ""
    command = "/" + text[found.end() :].removeprefix("/").lstrip()
    name = command[1:].split(" ", 1)[0]
    with suppress(CommandError):
        spec = find_command(name)
        if name.lower() not in spec.shorthands or found[0] == write_key:
            return command
    return ""


# --- completion -----------------------------------------------------------------------------------


def complete_command(line: str, known: KnownNames = NO_NAMES) -> tuple[str, ...]:
    """Complete lines that begin with `line`: slash commands (aliases if no name matches), then what the
    command takes: names of peers, topics, options."""
    if not line.startswith("/"):
        return ()
    name, space, rest = line[1:].partition(" ")
    if not space:
        prefix = name.lower()
        specs = commands_on(Surface.SLASH)
        names = [each.name for each in specs if each.name.startswith(prefix)] or [
            alias for each in specs for alias in each.aliases if alias.startswith(prefix)
        ]
        return tuple(
            f"/{each} " if SLASH_COMMANDS[each].arguments else f"/{each}" for each in names
        )
    spec = SLASH_COMMANDS.get(name.lower())
    if spec is None or not (spec.arguments or spec.options):
        return ()
    if spec.arguments and spec.arguments[0].type is ArgumentType.PEER:
        return _complete_peer(name, rest, known.peers, has_more=len(spec.arguments) > 1)
    word = rest.rpartition(" ")[2]
    stem = line[: len(line) - len(word)]
    found = _words_for(spec, rest.split(" "), known)
    return tuple(f"{stem}{each}" for each in found if each.lower().startswith(word.lower()))


def _complete_peer(
    name: str, rest: str, peers: tuple[str, ...], *, has_more: bool
) -> tuple[str, ...]:
    prefix = rest.removeprefix('"')
    if '" ' in rest or (" " in rest and prefix == rest):
        return ()
    space = " " if has_more else ""
    found = [each for each in peers if each.lower().startswith(prefix.lower())]
    return tuple(f"/{name} {quote_name(each)}{space}" for each in found)


def _words_for(spec: CommandSpec, words: list[str], known: KnownNames) -> Iterator[str]:
    """What the last of `words` can be, the first being the first argument or option."""
    position = 0
    valued: CommandOption | None = None  # the option whose value comes next
    given: set[str] = set()
    for word in words[:-1]:
        if valued is not None or not word:
            valued = None if word else valued
        elif word.startswith("--") and "--" not in given and spec.options:
            flag, equals, _ = word.partition("=")
            option = find_option(spec, flag)
            is_flag = option is not None and option.type is OptionType.FLAG
            if option is None or option.type is not OptionType.TAGS:  # those are repeatable
                given.add(flag)
            valued = None if equals or is_flag else option
        else:
            position += 1
    in_text = any(each.type is ArgumentType.PAYLOAD for each in spec.arguments[:position])
    if valued is not None:
        values = {"zone": known.zones, "tags": known.tags}.get(valued.name, ())
        yield from (quote_name(each) + " " for each in values)
    elif words[-1].startswith("--") and "--" not in given and not in_text:
        yield from (f"{each.flag} " for each in spec.options if each.flag not in given)
    elif position < len(spec.arguments):
        space = " " if position + 1 < len(spec.arguments) else ""
        for each in _names_for(spec, spec.arguments[position], known):
            yield each + space


def _names_for(spec: CommandSpec, argument: Argument, known: KnownNames) -> Iterable[str]:
    match argument.type:
        case ArgumentType.TOPIC:
            return known.topics
        case ArgumentType.PATTERN:
            return topic_patterns(known.topics)
        case ArgumentType.NAME:
            alerts, own = known.alerts, known.own_commands
            by_command = {"query": known.queries, "mute": alerts, "unmute": alerts, "run": own}
            by_command |= {"tab": known.tabs, "ctx": known.contexts}
            by_command |= {"mute_context": known.contexts}
            by_command |= {"highlight": known.highlights, "unhighlight": known.highlights}
            return by_command.get(spec.name, ())
        case ArgumentType.CHOICE:
            return argument.choices
        case ArgumentType.KEY:
            return known.keys
        case ArgumentType.TAGS:
            return known.tags
        case ArgumentType.COMMAND:
            return [each.name for each in commands_on(Surface.SLASH)]
        case _:
            return ()


def quote_name(name: str) -> str:
    """`name` as a slash command takes it."""
    return f'"{name}"' if " " in name else name
