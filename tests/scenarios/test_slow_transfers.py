"""What a member sends bit by bit holds nobody up: only what brings something on is a sign of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grapevine_proto.wire import codec
from grapevine_proto.wire.codec import encode_frame
from grapevine_proto.wire.messages import (
    Ack,
    Fragment,
    IWant,
    LinkFrame,
    MtuProbe,
    PathResponse,
    RumorCopy,
    Rumors,
)
from tests.cluster import Cluster
from tests.proto.overlay.builders import EPOCH, rumor

VICTIM, LIAR, HONEST = 1, 2, 3


@pytest.mark.parametrize("kind", ["bytes", "feedback", "probe", "answer"])
def test_a_gap_is_asked_for_as_soon_whatever_a_member_dribbles(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(3)
    asked: list[float] = []
    sound = codec.encode_message

    def listen(message: object) -> bytes:
        if isinstance(message, IWant):
            asked.append(cluster.now)
        return sound(message)  # type: ignore[arg-type]

    monkeypatch.setattr(codec, "encode_message", listen)
    signs: dict[str, Callable[[int], LinkFrame]] = {
        "bytes": lambda at: Fragment(7, 1 << 20, at + 1, b"x"),
        "feedback": lambda _: Ack(bytes(8), 0, 0, 0, 0, ()),
        "probe": lambda _: MtuProbe(100),
        "answer": lambda _: PathResponse(bytes(8)),
    }
    cluster.say(LIAR, VICTIM, encode_frame(Fragment(7, 1 << 20, 0, b"x")))
    second = rumor(HONEST, 2, b"second")  # and the first is missing
    cluster.say(HONEST, VICTIM, Rumors((RumorCopy(second, 1, 0),)))
    began_at = cluster.now
    for at in range(40):
        cluster.say(LIAR, VICTIM, encode_frame(signs[kind](at)))
        cluster.run(0.25)
        if asked:
            break
    assert asked
    assert asked[0] - began_at <= 2.5
    assert second.epoch == EPOCH
