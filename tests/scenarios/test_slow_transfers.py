"""A member that sends little by little delays no repair: only real progress counts."""

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

VICTIM, MALICIOUS, HONEST = 1, 2, 3


@pytest.mark.parametrize("kind", ["bytes", "ack", "probe", "path response"])
def test_a_gap_is_requested_in_time_whatever_a_member_sends_slowly(
    kind: str, patch_sources: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(3)
    requested_at: list[float] = []
    original = codec.encode_message

    def record(message: object) -> bytes:
        if isinstance(message, IWant):
            requested_at.append(cluster.now)
        return original(message)  # type: ignore[arg-type]

    patch_sources.setattr(codec, "encode_message", record)
    frames: dict[str, Callable[[int], LinkFrame]] = {
        "bytes": lambda at: Fragment(7, 1 << 20, at + 1, b"x"),
        "ack": lambda _: Ack(bytes(8), 0, 0, 0, 0, ()),
        "probe": lambda _: MtuProbe(100),
        "path response": lambda _: PathResponse(bytes(8)),
    }
    cluster.inject(MALICIOUS, VICTIM, encode_frame(Fragment(7, 1 << 20, 0, b"x")))
    second = rumor(HONEST, 2, b"second")  # the first is missing
    cluster.inject(HONEST, VICTIM, Rumors((RumorCopy(second, 1, 0),)))
    started_at = cluster.now
    for at in range(40):
        cluster.inject(MALICIOUS, VICTIM, encode_frame(frames[kind](at)))
        cluster.run(0.25)
        if requested_at:
            break
    assert requested_at
    assert requested_at[0] - started_at <= 2.5
    assert second.epoch == EPOCH
