"""Fragmentation of messages that do not fit one packet. `reassembly` puts them together again.

Invariant: a message is stored once, however many links send it; fragments are sliced from it when they are
sent.
"""

from __future__ import annotations

from typing import Final

from grapevine_proto.wire.codec import ChunkedMessage, TrackedBytes, fragment_header
from grapevine_proto.wire.messages import Kind

FRAGMENT_KINDS: Final = frozenset((Kind.FRAGMENT, Kind.REPAIR_FRAGMENT))  # never fragmented
BYTES_PER_TOKEN: Final = (
    1 << 16
)  # one token pays for this much; also the room for what surrounds a payload


class FragmentedMessage:
    """An outgoing message that is sent in fragments: how much is sent, charged and acknowledged."""

    __slots__ = (
        "_is_repair",
        "_message_number",
        "_plaintext",
        "acked_bytes",
        "charged_bytes",
        "is_abandoned",
        "rank",
        "sent_bytes",
        "tracked_keys",
    )

    def __init__(self, plaintext: bytes | ChunkedMessage, number: int, rank: int) -> None:
        kind = plaintext.kind if isinstance(plaintext, ChunkedMessage) else plaintext[0]
        self._plaintext = (
            plaintext if isinstance(plaintext, ChunkedMessage) else memoryview(plaintext)
        )
        self._message_number = number
        self._is_repair = kind == Kind.REPAIR
        self.rank = rank
        self.tracked_keys = (
            plaintext.tracked_keys if isinstance(plaintext, ChunkedMessage | TrackedBytes) else ()
        )
        self.acked_bytes = 0
        self.sent_bytes = 0  # from the start; retransmissions do not count
        self.charged_bytes = 0
        self.is_abandoned = False

    def __len__(self) -> int:
        return len(self._plaintext)

    @property
    def is_free(self) -> bool:
        """Whether it costs no tokens: the peer requested it."""
        return self._is_repair

    def encode_fragment(self, start: int, end: int) -> bytes:
        """Returns the plaintext of the packet that carries the bytes `start` to `end`."""
        header = fragment_header(self._message_number, len(self), start, is_repair=self._is_repair)
        plaintext = self._plaintext
        if isinstance(plaintext, ChunkedMessage):
            return header + plaintext.slice_bytes(start, end)
        return b"".join((header, plaintext[start:end]))
