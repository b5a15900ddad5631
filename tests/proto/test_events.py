"""Events and values: what they show of themselves, and their JSON."""

from __future__ import annotations

from grapevine_proto.events import SHOWN_PAYLOAD_BYTES, Message, Via
from grapevine_proto.ids import MessageId, PeerId

ORIGIN = PeerId(bytes(range(32)))


def a_message(payload: bytes) -> Message:
    return Message(MessageId(ORIGIN, 7, 1), payload, 1, Via.EAGER, 2.5)


def test_a_message_shows_all_of_a_short_payload() -> None:
    shown = repr(a_message(b"x" * SHOWN_PAYLOAD_BYTES))
    assert f"payload=b'{'x' * SHOWN_PAYLOAD_BYTES}', hops=1" in shown
    assert "received_at=2.5" in shown


def test_a_message_shows_the_beginning_and_the_size_of_a_long_payload() -> None:
    shown = repr(a_message(b"x" * SHOWN_PAYLOAD_BYTES + b"y" * 10_000_000))
    assert f"payload=b'{'x' * SHOWN_PAYLOAD_BYTES}'... (10000080 bytes), hops=1" in shown
    assert "y" * 4 not in shown
    assert len(shown) < 600
