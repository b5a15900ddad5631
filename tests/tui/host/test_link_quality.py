"""Loss and jitter over the last half minute."""

from __future__ import annotations

from typing import Any

import pytest

from grapevine_proto.events import PeerInfo, PeerState
from grapevine_tui.host.link_quality import MIN_SENT, WINDOW_SAMPLES, LinkQuality
from tests.tui.values import a_peer, an_id

BOB = an_id(1)


def bob(**changes: Any) -> PeerInfo:
    return a_peer(1, "bob", **changes)


def test_loss_is_the_share_of_the_datagrams_sent_within_the_window() -> None:
    quality = LinkQuality()
    quality.sample([bob(sent=1_000, lost=500)])
    assert quality.loss(BOB) is None  # nothing was sent since
    quality.sample([bob(sent=1_100, lost=504)])
    assert quality.loss(BOB) == pytest.approx(0.04)
    for n in range(WINDOW_SAMPLES):
        quality.sample([bob(sent=1_100 + 10 * n, lost=504)])
    assert quality.loss(BOB) == 0  # what was lost before is no longer in the window


def test_a_share_of_too_few_datagrams_is_not_known() -> None:
    quality = LinkQuality()
    quality.sample([bob(sent=0)])
    quality.sample([bob(sent=MIN_SENT - 1, lost=5)])
    assert quality.loss(BOB) is None
    assert quality.total_loss is None
    quality.sample([bob(sent=MIN_SENT, lost=5)])
    assert quality.loss(BOB) == pytest.approx(5 / MIN_SENT)


def test_a_peer_whose_counters_start_again_starts_again() -> None:
    quality = LinkQuality()
    quality.sample([bob(sent=1_000, lost=10)])
    quality.sample([bob(sent=5, lost=0)])
    assert quality.loss(BOB) is None
    quality.sample([bob(sent=105, lost=50)])
    assert quality.loss(BOB) == pytest.approx(0.5)


def test_a_peer_that_is_gone_takes_no_room() -> None:
    quality = LinkQuality()
    quality.sample([bob(sent=0)])
    quality.sample([bob(sent=100, state=PeerState.DISCONNECTED)])
    quality.sample([bob(sent=200)])
    assert quality.loss(BOB) is None
    assert quality.loss(an_id(9)) is None
    assert quality.jitter_s(an_id(9)) is None


def test_the_loss_of_the_node_is_that_of_all_its_links() -> None:
    quality = LinkQuality()
    quality.sample([bob(sent=0), a_peer(2, sent=0)])
    quality.sample([bob(sent=100, lost=10), a_peer(2, sent=300, lost=10)])
    assert quality.total_loss == pytest.approx(20 / 400)


def test_jitter_is_the_mean_change_of_the_round_trip_time() -> None:
    quality = LinkQuality()
    for rtt_s in (0.010, 0.014, None, 0.012):
        quality.sample([bob(rtt_s=rtt_s)])
    assert quality.jitter_s(BOB) == pytest.approx(0.003)
