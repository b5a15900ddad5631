"""The details of one message, with its payload as text, hex or formatted JSON.

Invariants: at most `MAX_SHOWN_BYTES` of a payload are shown; every line is printable.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Final

from textual.binding import Binding, BindingType

from grapevine_proto.events import Message, Via
from grapevine_tui.app.screens.detail import DetailScreen
from grapevine_tui.app.widgets.fact_sheet import Fact
from grapevine_tui.app.widgets.format import format_bytes
from grapevine_tui.host.message_buffer import LogEntry
from grapevine_tui.host.model import Model
from grapevine_tui.text import printable, printable_lines, via_word

MAX_SHOWN_BYTES: Final = 64 * 1024  # export a message to see more
HEX_BYTES_PER_LINE: Final = 16


def format_as_text(payload: bytes) -> list[str] | None:
    """Return the payload as lines of text, or None if it is not UTF-8."""
    head = payload[:MAX_SHOWN_BYTES]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) == len(payload) or error.start < len(head) - 3:
            return None
        text = head[: error.start].decode()  # the limit split a character
    return printable_lines(text)


def format_as_json(payload: bytes) -> list[str] | None:
    """Return the payload as indented JSON, or None if it is not an object or array."""
    if len(payload) <= MAX_SHOWN_BYTES and payload.lstrip()[:1] in (b"{", b"["):
        with suppress(ValueError, RecursionError):
            return printable_lines(json.dumps(json.loads(payload), indent=2, ensure_ascii=False))
    return None


def format_as_hex(payload: bytes) -> list[str]:
    """Return a hex dump: offset, bytes and ASCII characters."""
    lines = []
    for start in range(0, min(len(payload), MAX_SHOWN_BYTES), HEX_BYTES_PER_LINE):
        part = payload[start : start + HEX_BYTES_PER_LINE]
        characters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):<{HEX_BYTES_PER_LINE * 3 - 1}}  {characters}")
    return lines


PAYLOAD_FORMATS: Final[dict[str, Callable[[bytes], list[str] | None]]] = {
    "text": format_as_text,
    "hex": format_as_hex,
    "json": format_as_json,
}


def available_formats(payload: bytes) -> list[str]:
    """Return the formats that apply to this payload, most specific first."""
    return [name for name in ("json", "text", "hex") if PAYLOAD_FORMATS[name](payload) is not None]


def message_facts(
    model: Model, entry: LogEntry, format_name: str, size_bytes: int | None = None
) -> list[Fact]:
    """Return origin, route, verification, size and payload of a message. `size_bytes` is that of the whole
    payload, if `entry` has its beginning only."""
    message = entry.message
    timestamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at_unix))
    size = len(message.payload) if size_bytes is None else size_bytes
    is_own = message.via is Via.LOCAL
    route = (
        "sent from here"
        if is_own
        else f"{via_word(message.via)}, {message.hops} hop{'s' * (message.hops != 1)}"
    )
    # The node delivers only verified messages; which kind of proof follows from the kind of message.
    proof = "by its session" if message.is_direct else "by its author's signature"
    facts = [
        Fact("from", printable(model.name_of(message.origin))),
        Fact("to", _format_recipient(model, message)),
        *([Fact("topic", printable(message.topic))] if message.topic else []),
        Fact("author", str(message.origin), "accent"),
        Fact("id", str(message.id)),
        Fact("received", f"{timestamp}, {route}"),
        Fact("verified", "own message" if is_own else proof),
        Fact("size", format_bytes(size) + ("" if size < 1000 else f" ({size:,} bytes)")),
        Fact(f"payload as {format_name}", ""),
    ]
    facts += [Fact("", line) for line in PAYLOAD_FORMATS[format_name](message.payload) or [""]]
    if size > MAX_SHOWN_BYTES:
        facts.append(Fact("", f"… {size - MAX_SHOWN_BYTES:,} bytes more", "dim"))
    return facts


def _format_recipient(model: Model, message: Message) -> str:
    """Return the recipient: everyone, or the name and ID of one node."""
    if message.to is not None:
        reason = model.undelivered.get(message.id)
        failure = "" if reason is None else f"; not delivered: {reason}"
        return f"{printable(model.name_of(message.to))} only ({message.to}){failure}"
    if not message.is_direct:
        return "everyone"
    return "one member only" if message.via is Via.LOCAL else "this node only"


class MessageScreen(DetailScreen):
    """The detail screen of one message; `v` switches the format of the payload."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "next_format", "Text, hex or JSON"),
        Binding("tab", "next_format", "Text, hex or JSON", show=False),
    ]

    def __init__(
        self, model: Model, entry: LogEntry, payload_text: str, size_bytes: int | None = None
    ) -> None:
        copies = (payload_text, str(entry.message.id))
        title = f"Message {entry.number + 1:,}" if entry.number >= 0 else "Message from the history"
        self._size_bytes = size_bytes
        super().__init__(title, self._build_facts, copy_texts=copies, kind="message")
        self._model = model
        self._entry = entry
        self._available_formats = available_formats(entry.message.payload)
        self._format_name = self._available_formats[0]

    @property
    def message(self) -> Message:
        """The message that is shown."""
        return self._entry.message

    def _build_facts(self) -> list[Fact]:
        return message_facts(self._model, self._entry, self._format_name, self._size_bytes)

    def _next_format(self) -> str:
        return self._available_formats[
            (self._available_formats.index(self._format_name) + 1) % len(self._available_formats)
        ]

    def key_label(self, action: str) -> str:
        """Return the label of the format key: the format it switches to."""
        return (
            f"As {self._next_format()}"
            if action == "next_format" and len(self._available_formats) > 1
            else ""
        )

    def action_next_format(self) -> None:
        """Show the payload in its next format."""
        self._format_name = self._next_format()
        self.show()
        self.refresh_bindings()
