"""One message whole, as text, as bytes or as JSON laid out.

What must stay true: as much of a payload is laid out as one may want to read, never all of a giant;
every line is printable.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar, Final

from textual.binding import Binding, BindingType

from grapevine_proto.events import Message, Via
from grapevine_tui.model import Model
from grapevine_tui.ring import Entry
from grapevine_tui.screens.detail import DetailScreen
from grapevine_tui.text import printable, printable_lines
from grapevine_tui.widgets.look import bytes_words
from grapevine_tui.widgets.sheet import Fact

PAYLOAD_BYTES: Final = 64 * 1024  # laid out of one message: more is for a file, not a screen
HEX_BYTES: Final = 16  # a line


def as_text(payload: bytes) -> list[str] | None:
    """Lines of text; None where it is none."""
    head = payload[:PAYLOAD_BYTES]
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) == len(payload) or error.start < len(head) - 3:
            return None
        text = head[: error.start].decode()  # cut through the middle of a character
    return printable_lines(text)


def as_json(payload: bytes) -> list[str] | None:
    """An object or a list laid out; None where it is neither."""
    if len(payload) <= PAYLOAD_BYTES and payload.lstrip()[:1] in (b"{", b"["):
        with suppress(ValueError, RecursionError):
            return printable_lines(json.dumps(json.loads(payload), indent=2, ensure_ascii=False))
    return None


def as_hex(payload: bytes) -> list[str]:
    """Offsets, bytes, and the letters among them."""
    lines = []
    for start in range(0, min(len(payload), PAYLOAD_BYTES), HEX_BYTES):
        part = payload[start : start + HEX_BYTES]
        letters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):<{HEX_BYTES * 3 - 1}}  {letters}")
    return lines


FORMS: Final[dict[str, Callable[[bytes], list[str] | None]]] = {
    "text": as_text,
    "hex": as_hex,
    "json": as_json,
}


def forms_of(payload: bytes) -> list[str]:
    """The forms that this payload has, the most telling first."""
    return [name for name in ("json", "text", "hex") if FORMS[name](payload) is not None]


def message_facts(model: Model, entry: Entry, form: str) -> list[Fact]:
    """Where it is from, how it came, what it says."""
    message = entry.message
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at_unix))
    size = len(message.payload)
    is_ours = message.via is Via.LOCAL
    way = (
        "said here"
        if is_ours
        else f"{message.via.value}, {message.hops} hop{'s' * (message.hops != 1)}"
    )
    # The node shows nothing that was not proved; the proof itself it does not keep for us.
    proof = "by the session it came in" if message.private else "by its author's signature"
    facts = [
        Fact("from", printable(model.name_of(message.origin))),
        Fact("for", _recipient(model, message)),
        Fact("author", str(message.origin), "accent"),
        Fact("id", str(message.id)),
        Fact("came", f"{stamp}, {way}"),
        Fact("proved", "our own" if is_ours else proof),
        Fact("size", bytes_words(size) + ("" if size < 1000 else f" ({size:,} bytes)")),
        Fact(f"payload as {form}", ""),
    ]
    facts += [Fact("", line) for line in FORMS[form](message.payload) or [""]]
    if size > PAYLOAD_BYTES:
        facts.append(Fact("", f"… {size - PAYLOAD_BYTES:,} bytes more", "dim"))
    return facts


def _recipient(model: Model, message: Message) -> str:
    """For whom it is, by name and id where that is not everyone."""
    if message.to is not None:
        lost = "; not delivered: no answer" if message.id in model.undelivered else ""
        return f"{printable(model.name_of(message.to))} alone ({message.to}){lost}"
    if not message.private:
        return "everyone"
    return "one recipient alone" if message.via is Via.LOCAL else "this node alone"


class MessageScreen(DetailScreen):
    """`v` shows the payload in its next form."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "form", "Text, hex or JSON"),
        Binding("tab", "form", "Text, hex or JSON", show=False),
    ]

    def __init__(self, model: Model, entry: Entry, payload_text: str) -> None:
        copies = (payload_text, str(entry.message.id))
        title = f"Message {entry.number + 1:,}"
        super().__init__(title, self._ask, copies=copies, kind="message")
        self._model = model
        self._entry = entry
        self._forms = forms_of(entry.message.payload)
        self._form = self._forms[0]

    def _ask(self) -> list[Fact]:
        return message_facts(self._model, self._entry, self._form)

    def _next_form(self) -> str:
        return self._forms[(self._forms.index(self._form) + 1) % len(self._forms)]

    def key_words(self, action: str) -> str:
        """What a key does now."""
        return f"As {self._next_form()}" if action == "form" and len(self._forms) > 1 else ""

    def action_form(self) -> None:
        """The next form that this payload has."""
        self._form = self._next_form()
        self.show()
        self.refresh_bindings()
