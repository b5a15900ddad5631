"""Requests of JSON Lines: commands from the lines of stdin and of the control socket.

Invariants:

- One line becomes one `Request` or one `InvalidRequest`; parsing has no effects.
- A line that may have been meant as a command is never broadcast as text: one that contains a control
  character, begins with an invisible one or resembles part of a JSON object is rejected.
"""

from __future__ import annotations

import binascii
import json
import math
import os
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn, assert_never
from unicodedata import category

from grapevine_proto.errors import ConfigError, GrapevineError
from grapevine_tui.control.commands import (
    Argument,
    ArgumentType,
    Command,
    CommandError,
    CommandOption,
    CommandSpec,
    OptionType,
    Surface,
    commands_by_name,
    parse_choice,
    parse_command_name,
    suggest_command,
)
from grapevine_tui.control.jsonlines import Object
from grapevine_tui.control.slash_parser import parse_command
from grapevine_tui.text import escape, printable

BYTE_ORDER_MARK: Final = "\ufeff"  # PowerShell and some editors write one before UTF-8
# The end or a member of an object, the start of an array, a command without its brace.
JSON_FRAGMENT: Final = re.compile(
    r"""^[}\]]|^["'][^"']*["']\s*:|^\[\s*(?:["'{\[]|$)|["']cmd["']\s*:"""
)


@dataclass(frozen=True, slots=True)
class Request:
    """A command and the caller's id of the request. `file`: read the payload from there."""

    command: Command
    request_id: Any = None
    file: str = ""


class InvalidRequest(GrapevineError):
    """A line that cannot be parsed. `request_id` is the caller's id, if it could be read."""

    def __init__(self, problem: str, request_id: Any = None) -> None:
        super().__init__(problem)
        self.request_id = request_id


def parse_request(line: bytes) -> Request | None:
    """Parse `line`; None if it is blank. A byte order mark before it is skipped.

    Raises:
        InvalidRequest: the line cannot be parsed.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the line is not UTF-8; send other bytes as base64") from None
    text = text.removesuffix("\r")
    for position, character in enumerate(text, start=1):
        if character != "\t" and category(character) == "Cc":
            raise InvalidRequest(
                f"control character {escape(ord(character))} at character {position} (UTF-16?); "
                "send UTF-8, and other bytes as base64"
            )
    text = text.strip().lstrip(BYTE_ORDER_MARK).strip()
    if not text:
        return None
    if text.startswith("{"):
        return _parse_object(text)
    if printable(text[0]) != text[0]:
        raise InvalidRequest(f"the line begins with the invisible character {escape(ord(text[0]))}")
    if JSON_FRAGMENT.search(text):
        raise InvalidRequest(
            "this looks like part of a JSON object, which must begin with { and end on the same line; "
            'to send it as text, use {"cmd":"broadcast","text":"..."}'
        )
    try:
        return Request(parse_command(text))
    except CommandError as error:
        raise InvalidRequest(str(error)) from None


def _parse_object(text: str) -> Request:
    try:
        fields = json.loads(
            text,
            parse_constant=_reject_constant,
            parse_float=_parse_finite,
            object_pairs_hook=_reject_duplicates,
        )
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except ValueError as error:
        raise InvalidRequest(f"not JSON: {error}") from None
    except RecursionError:
        raise InvalidRequest("not JSON: nested too deeply") from None
    request_id = fields.pop("request", None)
    try:
        return _parse_command(fields, request_id)
    except (CommandError, ConfigError) as error:
        raise InvalidRequest(str(error), request_id) from None


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> Object:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


JSON_COMMANDS: Final[Mapping[str, CommandSpec]] = commands_by_name(Surface.JSON)
PAYLOAD_FIELDS: Final = ("text", "base64", "file")


def _parse_command(fields: Object, request_id: Any) -> Request:
    if "cmd" not in fields:
        raise CommandError('the object has no "cmd"')
    name = fields.pop("cmd")
    spec = JSON_COMMANDS.get(name) if isinstance(name, str) else None
    if spec is None:
        suggestion = suggest_command(str(name)[:80], JSON_COMMANDS) or '{"cmd":"help"} lists them'
        raise CommandError(f"unknown command {name!r:.80}; {suggestion}")
    _check_fields(spec, fields)
    values: list[Any] = []
    file = ""
    for argument in spec.arguments:
        match argument.type:
            case ArgumentType.PAYLOAD:
                payload, file = _parse_payload(spec.name, fields, argument)
                values.append(payload)
            case ArgumentType.CHANGES:
                values.append(_parse_changes(spec.name, argument.name, fields))
            case ArgumentType.CHOICE:
                values.append(parse_choice(argument, _parse_string(spec.name, argument, fields)))
            case ArgumentType.TAGS:
                values.append(_parse_tags(argument.name, fields))
            case ArgumentType.COMMAND:
                values.append(parse_command_name(_parse_string(spec.name, argument, fields)))
            case (
                ArgumentType.PEER
                | ArgumentType.ADDRESS
                | ArgumentType.TOPIC
                | ArgumentType.PATTERN
                | ArgumentType.NAME
                | ArgumentType.KEY
                | ArgumentType.WORDS
            ):
                values.append(_parse_string(spec.name, argument, fields))
            case _:
                assert_never(argument.type)
    options = {each.name: fields[each.name] for each in spec.options if each.name in fields}
    return Request(spec.make(*values, **options), request_id, file)


def json_fields(spec: CommandSpec) -> tuple[str, ...]:
    """The fields that the object of a command may have besides ``cmd`` and ``request``."""
    fields: list[str] = []
    for argument in spec.arguments:
        is_payload = argument.type is ArgumentType.PAYLOAD
        fields += PAYLOAD_FIELDS if is_payload else (argument.name,)
    return (*fields, *(each.name for each in spec.options))


def _check_fields(spec: CommandSpec, fields: Object) -> None:
    known = json_fields(spec)
    mappings = {
        each.name
        for each in spec.arguments
        if each.type in (ArgumentType.CHANGES, ArgumentType.TAGS)
    }
    options = {each.name: each for each in spec.options}
    for name, value in fields.items():
        if name not in known:
            raise CommandError(
                f"{spec.name} takes no {name!r:.80}; it takes: {', '.join(known) or 'nothing'}"
            )
        if name in options and options[name].type is not OptionType.TEXT:
            _check_option(options[name], value)
        elif name not in mappings and not isinstance(value, str):
            raise CommandError(f"{name} must be a string")
        if not is_valid_file_name(value) if name == "file" else has_lone_surrogate(value):
            raise CommandError(f"{name} holds half a surrogate pair; send such bytes as base64")


def _check_option(option: CommandOption, value: Any) -> None:
    """Raises CommandError unless `value` is of the type of a number, a flag or tags."""
    if option.type is OptionType.NUMBER and type(value) is not int:
        raise CommandError(f"{option.name} must be a whole number")
    if option.type is OptionType.FLAG and type(value) is not bool:
        raise CommandError(f"{option.name} must be true or false")
    if option.type is OptionType.TAGS and not _is_tags(value):
        raise CommandError(f"{option.name} must be an object of texts")


def _is_tags(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _parse_tags(name: str, fields: Object) -> tuple[str, ...]:
    """Tags as ``name=value``, from an object; or names, from a list of them."""
    value = fields.get(name, [])
    if _is_tags(value):
        return tuple(f"{key}={text}" for key, text in value.items())
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise CommandError(f"{name} must be an object of texts, or a list of names")


def is_valid_file_name(value: str) -> bool:
    """Whether a file of that name can exist: bytes that are not UTF-8 arrive as surrogates."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def has_lone_surrogate(value: Any) -> bool:
    """Whether a text in `value` cannot be encoded: JSON can spell half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _parse_string(command_name: str, argument: Argument, fields: Object) -> str:
    value: str = fields.get(argument.name, "").strip()
    if argument.is_required and not value:
        raise CommandError(f"{command_name} needs {argument.name!r}")
    return value


def _parse_changes(command_name: str, name: str, fields: Object) -> tuple[tuple[str, str], ...]:
    changes = fields.get(name)
    if not isinstance(changes, dict) or not changes:
        raise CommandError(f"{command_name} needs {name!r}, an object of settings")
    if not all(isinstance(value, str) for value in changes.values()):
        raise CommandError(f"{name} must be strings, as a user would type them")
    return tuple(changes.items())


def _parse_payload(
    command_name: str, fields: Object, argument: Argument
) -> tuple[bytes | None, str]:
    """(payload, the file to read it from, if any). The payload is None if none is given nor required."""
    given = [name for name in PAYLOAD_FIELDS if name in fields]
    if not given and not argument.is_required:
        return None, ""
    if len(given) != 1:
        raise CommandError(f"{command_name} needs one of: {', '.join(PAYLOAD_FIELDS)}")
    value: str = fields[given[0]]
    if given[0] == "file":
        if not value or "\0" in value:
            raise CommandError("file must name a file")
        return b"", value
    try:
        return (value.encode() if given[0] == "text" else b64decode(value, validate=True)), ""
    except (binascii.Error, ValueError):
        raise CommandError("base64 is not base64") from None
