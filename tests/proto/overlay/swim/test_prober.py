"""The prober: which peers are pinged, when, and what follows from no answer."""

from __future__ import annotations

import math
from typing import Any

import pytest

from grapevine_proto.ids import PeerId
from grapevine_proto.overlay.effects import Effect, Send
from grapevine_proto.overlay.peers import Peer, PeerTable, PeerTrigger
from grapevine_proto.overlay.swim.lifeguard import Awareness
from grapevine_proto.overlay.swim.prober import Prober, check_interval_s
from grapevine_proto.overlay.swim.suspicion_table import Suspicion, SuspicionTable
from grapevine_proto.wire.messages import MemberUpdate, Ping, PingAck, PingReq
from grapevine_proto.wire.signed import Accusation
from tests.proto.overlay.builders import NodeTables, config, peer_id, record

PROBE_S = 1.5  # five pings under the lan profile


class ProbingNode:
    """Node 0, linked to peers from 1 on, all of which it heard at time 0."""

    def __init__(self, links: int, **changes: Any) -> None:
        tables = NodeTables(*range(1, links + 1), **changes)
        self.config = tables.context.config
        self.suspicions = SuspicionTable()
        self.peers: PeerTable = tables.peers
        self.awareness = Awareness(0.0)
        self.prober = Prober(tables.context, self.suspicions, self.awareness, 0.0)
        self.accused: list[PeerId] = []

    def peer(self, number: int) -> Peer:
        peer = self.peers.get(peer_id(number))
        assert peer is not None
        return peer

    def receive_from(self, number: int, now: float) -> None:
        self.peers.on_packet(peer_id(number), now)
        self.prober.on_packet(peer_id(number), now)

    def advance_to(
        self, end: float, *, answering: set[int] | None = None
    ) -> list[tuple[float, Effect]]:
        """Advance time to `end`; helpers in `answering` report that they do not reach the subject
        either.
        """
        sent: list[tuple[float, Effect]] = []
        while self.prober.probes.deadline <= end:
            now = self.prober.probes.deadline
            for subject, probe in self.prober.probes.pop_due(now):
                effects = self.prober.next_ping(subject, probe, now)
                if effects is None:
                    self.accused.append(subject)
                for effect in effects or ():
                    sent.append((now, effect))
                    assert isinstance(effect, Send)
                    self._answer(effect, answering or set(), now)
        return sent

    def _answer(self, send: Send, answering: set[int], now: float) -> None:
        for number in answering:
            if isinstance(send.message, PingReq) and peer_id(number) in send.peers:
                self.receive_from(number, now)
                self.prober.on_ping_ack(PingAck(send.message.number, False), peer_id(number))


def test_a_probe_is_five_pings_with_ping_reqs_in_between() -> None:
    node = ProbingNode(9)
    node.prober.start(peer_id(1), 0.0)
    sent = node.advance_to(PROBE_S, answering=set(range(2, 10)))
    pings = [at for at, each in sent if isinstance(each, Send) and isinstance(each.message, Ping)]
    ping_req_targets = [
        each.peers
        for _, each in sent
        if isinstance(each, Send)
        if isinstance(each.message, PingReq)
    ]
    assert pings == [0.0, 0.25, 0.5, 0.75, 1.0, 1.5], "the last one carries the accusation"
    assert [len(peers) for peers in ping_req_targets] == [3, 3]
    assert node.accused == [peer_id(1)]
    assert node.peer(1).is_unresponsive
    assert not any(node.peer(number).is_unresponsive for number in range(2, 10))


def test_a_peer_that_is_heard_is_responsive_again() -> None:
    node = ProbingNode(9)
    node.prober.start(peer_id(1), 0.0)
    node.advance_to(PROBE_S, answering=set(range(2, 10)))
    node.receive_from(1, 2.0)
    assert not node.peer(1).is_unresponsive


def test_a_helper_that_does_not_answer_is_probed_itself() -> None:
    node = ProbingNode(5)
    node.prober.start(peer_id(1), 0.0)
    node.advance_to(PROBE_S, answering={2, 3})
    assert peer_id(4) in node.prober.probes
    assert peer_id(5) in node.prober.probes
    assert peer_id(2) not in node.prober.probes
    assert peer_id(3) not in node.prober.probes
    node.advance_to(2 * PROBE_S + 0.01, answering={2, 3})
    assert set(node.accused) == {peer_id(1), peer_id(4), peer_id(5)}


def test_an_isolated_node_accuses_no_peer_but_regards_all_as_unresponsive() -> None:
    """If no member answers, this node may be cut off, and trusts itself less. It seeks other links all
    the same, and no later.
    """
    node = ProbingNode(4)
    node.prober.start(peer_id(1), 5.0)
    node.advance_to(5.0 + 2 * PROBE_S + 0.01)
    assert node.accused == []
    assert node.awareness.score > 0
    assert all(node.peer(number).is_unresponsive for number in range(1, 5))


# --- when a probe starts ------------------------------------------------------------------------


@pytest.mark.parametrize(("gossip_interval", "check_s"), [(5.0, 1.0), (4.0, 1.0), (1.0, 0.25)])
def test_peers_are_checked_four_times_an_interval_and_at_least_once_a_second(
    gossip_interval: float, check_s: float
) -> None:
    assert check_interval_s(config(gossip_interval=gossip_interval)) == check_s


def started_at(expected_from: float, heard_at: float, now: float) -> float | None:
    """When the probe of a peer starts that sent a heartbeat and a packet at these times; None: not
    before the next check. Heartbeats come every 5 s and are checked every second."""
    node = ProbingNode(1)
    peer = node.peer(1)
    peer.heartbeat_expected_from, peer.last_heard_at = expected_from, heard_at
    assert node.prober.check_peer(peer, now) == []
    at = node.prober.probes.deadline
    return None if at == math.inf else at


def test_a_probe_starts_when_a_heartbeat_is_later_than_its_sender_may_be() -> None:
    late_s = 5.5 + 0.5 + 0.25  # a tenth of the interval, half a check, half a ping timeout
    assert started_at(0.0, 0.0, late_s - 1.0) is None
    assert started_at(0.0, 0.0, late_s - 0.9) == late_s
    assert started_at(0.0, 0.0, 9.0) == 9.0
    assert started_at(2.0, 0.0, late_s + 1.1) == late_s + 2.0


def test_other_packets_postpone_a_probe_by_a_check() -> None:
    assert started_at(0.0, 6.0, 6.5) == 7.0
    assert started_at(0.0, 6.5, 6.5) is None


def test_a_peer_that_is_being_probed_is_not_probed_again() -> None:
    node = ProbingNode(1)
    node.prober.start(peer_id(1), 50.0)
    assert node.prober.check_peer(node.peer(1), 20.0) == []
    assert node.prober.probes.deadline == 50.0


def test_doubting_ourselves_gives_a_heartbeat_more_time() -> None:
    node = ProbingNode(1)
    node.awareness.increment(0.0, 2)
    node.prober.check_peer(node.peer(1), 6.0)
    assert node.prober.probes.deadline == 5.5 + 0.5 + 3 * 0.25


# --- pings --------------------------------------------------------------------------------------


def accuse(node: ProbingNode, subject: int, *accusers: int) -> Suspicion:
    suspicion = node.suspicions.open(
        record(subject), 0.0, members=10, per_decade_s=4.0, max_factor=6.0, accused_by_us=False
    )
    assert suspicion is not None
    for number in accusers:
        node.suspicions.add(suspicion, Accusation(peer_id(number), bytes(64)))
    return suspicion


def test_a_ping_carries_the_number_of_the_probe_and_the_accusations() -> None:
    node = ProbingNode(1)
    assert node.prober.ping(peer_id(1), 1.0) == Send((peer_id(1),), Ping(0))
    node.prober.start(peer_id(1), 1.0)
    suspicion = accuse(node, 1)
    assert node.prober.ping(peer_id(1), 1.0) == Send((peer_id(1),), Ping(1))
    assert suspicion.subject_notified_at == -math.inf
    node.suspicions.add(suspicion, Accusation(peer_id(2), bytes(64)))
    update = MemberUpdate(record(1), (Accusation(peer_id(2), bytes(64)),))
    assert node.prober.ping(peer_id(1), 2.0) == Send((peer_id(1),), Ping(1, (update,)))
    assert suspicion.subject_notified_at == 2.0


def test_an_accused_peer_that_is_heard_learns_of_it_once_a_second_until_it_refutes() -> None:
    node = ProbingNode(1)
    suspicion = accuse(node, 1, 2)
    peer = node.peer(1)
    assert node.prober.check_peer(peer, 1.0) == [], "it is not heard: the probe will tell"
    node.suspicions.clear(suspicion, 1.0)
    assert len(node.prober.check_peer(peer, 1.0)) == 1
    assert node.prober.check_peer(peer, 1.9) == []
    assert len(node.prober.check_peer(peer, 2.0)) == 1
    node.suspicions.close(peer_id(1))
    assert node.prober.check_peer(peer, 5.0) == []


def test_doubting_ourselves_slows_the_pings_down() -> None:
    node = ProbingNode(1, detection=config().detection)
    node.awareness.increment(0.0, 1)
    node.prober.start(peer_id(1), 0.0)
    sent = node.advance_to(3.0)
    pings = [at for at, each in sent if isinstance(each, Send) and isinstance(each.message, Ping)]
    assert pings[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_a_slow_probe_finds_its_peer_unresponsive_after_the_normal_duration() -> None:
    node = ProbingNode(1)
    node.awareness.increment(0.0, 2)  # 0.75 s between pings
    node.prober.start(peer_id(1), 0.0)
    node.advance_to(0.75)
    assert not node.peer(1).is_unresponsive
    node.advance_to(1.5)
    assert node.peer(1).is_unresponsive


def test_an_expedited_probe_continues_after_a_ping_timeout() -> None:
    node = ProbingNode(1)
    node.prober.start(peer_id(1), 9.0)
    node.prober.expedite(peer_id(1), 1.0)
    assert node.prober.deadline == 1.5


def test_an_accused_peer_is_pinged_on_every_second() -> None:
    node = ProbingNode(9)
    node.prober.start(peer_id(1), 0.0)
    sent = node.advance_to(4.0, answering=set(range(2, 10)))
    late = [at for at, each in sent if isinstance(each, Send) and at >= PROBE_S]
    assert late == [1.5, 2.5, 3.5]
    assert node.accused == [peer_id(1)]


def test_without_other_peers_no_ping_req_is_sent() -> None:
    node = ProbingNode(1)
    node.prober.start(peer_id(1), 0.0)
    assert all(
        isinstance(each, Send) and isinstance(each.message, Ping)
        for _, each in node.advance_to(PROBE_S)
    )


def test_ping_reqs_go_to_distinct_helpers_with_the_number_of_the_probe() -> None:
    node = ProbingNode(9)
    node.prober.start(peer_id(1), 0.0)
    asked = [
        (peer, each.message)
        for _, each in node.advance_to(PROBE_S, answering=set(range(2, 10)))
        if isinstance(each, Send) and isinstance(each.message, PingReq)
        for peer in each.peers
    ]
    assert len({peer for peer, _ in asked}) == 6
    assert peer_id(1) not in {peer for peer, _ in asked}
    assert {message for _, message in asked} == {PingReq(1, peer_id(1))}


# --- whom to trust ------------------------------------------------------------------------------


def exhaust(node: ProbingNode, subject: int, *, alive: bool | None) -> None:
    """Probes `subject` to the end; all helpers report this (None: they stay silent)."""
    node.prober.start(peer_id(subject), 0.0)
    while (
        probe := node.prober.probes.get(peer_id(subject))
    ) and node.prober.probes.deadline <= PROBE_S:
        now = node.prober.probes.deadline
        for peer, due in node.prober.probes.pop_due(now):
            if node.prober.next_ping(peer, due, now) is None:
                node.accused.append(peer)
        if alive is not None:
            for helper in probe.helpers:
                node.peers.get(helper).last_heard_at = now  # type: ignore[union-attr]
                node.prober.on_ping_ack(PingAck(probe.number, alive), helper)


def test_a_peer_that_a_helper_reaches_is_probed_again_an_interval_later() -> None:
    node = ProbingNode(9)
    exhaust(node, 1, alive=True)
    assert node.accused == []
    assert node.prober.probes.deadline == PROBE_S + 5.0
    assert node.prober.health_reason(peer_id(1)) == "heard by others, not by us"
    assert node.awareness.score == 0


def test_two_accusers_outweigh_a_report_that_a_peer_is_alive() -> None:
    node = ProbingNode(9)
    suspicion = accuse(node, 1, 2)
    assert not node.prober.has_majority_against(peer_id(1))
    node.suspicions.add(suspicion, Accusation(peer_id(3), bytes(64)))
    assert node.prober.has_majority_against(peer_id(1))
    exhaust(node, 1, alive=True)
    assert node.accused == [peer_id(1)]
    assert node.prober.health_reason(peer_id(1)) == "does not answer, directly or through others"


def test_silent_helpers_make_a_node_doubt_itself_but_not_its_accusation_if_others_are_heard() -> (
    None
):
    node = ProbingNode(9)
    node.receive_from(2, 0.5)  # another peer, during the probe
    exhaust(node, 1, alive=None)
    assert node.awareness.score == 1
    assert node.accused[0] == peer_id(1)


def test_unsolicited_answers_are_ignored() -> None:
    node = ProbingNode(9)
    node.prober.start(peer_id(1), 0.0)
    node.advance_to(0.25)
    probe = node.prober.probes.get(peer_id(1))
    assert probe is not None
    unknown = next(n for n in range(2, 10) if peer_id(n) not in probe.helpers)
    helper = next(iter(probe.helpers))
    node.prober.on_ping_ack(PingAck(probe.number, True), peer_id(unknown))
    node.prober.on_ping_ack(PingAck(probe.number + 1, True), helper)
    assert (probe.heard_by_others, probe.has_helper_answers) == (False, False)
    node.prober.on_ping_ack(PingAck(probe.number, True), helper)
    node.prober.on_ping_ack(PingAck(probe.number, False), helper)
    assert probe.heard_by_others
    assert probe.has_helper_answers


def test_a_probe_counts_from_its_start_but_for_its_normal_duration_at_most() -> None:
    node = ProbingNode(1)
    node.prober.start(peer_id(1), 1.0)
    probe = node.prober.probes.get(peer_id(1))
    assert probe is not None
    assert node.prober.probing_since(probe, 2.0) == 1.0
    assert node.prober.probing_since(probe, 2.5) == 1.0
    assert node.prober.probing_since(probe, 3.0) == 1.5


def test_a_helper_is_probed_if_it_stays_silent_for_four_fifths_of_a_ping_timeout() -> None:
    node = ProbingNode(9)
    node.prober.start(peer_id(1), 0.0)
    probe = node.prober.probes.get(peer_id(1))
    assert probe is not None
    probe.pings_sent = 4
    probe.helpers = {peer_id(n): at for n, at in [(2, 1.0), (3, 1.2), (4, 0.5), (99, 0.0)]}
    node.peer(4).last_heard_at = 0.5
    node.prober.next_ping(peer_id(1), probe, 1.55)
    assert peer_id(2) in node.prober.probes
    assert not any(peer_id(n) in node.prober.probes for n in (3, 4, 99))


def test_helpers_are_probed_after_the_fourth_and_the_last_ping_only() -> None:
    for sent, is_probed in [(1, False), (2, False), (3, False), (4, True), (5, True)]:
        node = ProbingNode(9)
        node.prober.start(peer_id(1), 0.0)
        probe = node.prober.probes.get(peer_id(1))
        assert probe is not None
        probe.pings_sent, probe.helpers = sent, {peer_id(2): 0.5}
        node.prober.next_ping(peer_id(1), probe, 5.0)
        assert (peer_id(2) in node.prober.probes) is is_probed


def test_a_helper_that_lost_its_link_is_not_probed() -> None:
    node = ProbingNode(9)
    node.prober.start(peer_id(1), 0.0)
    probe = node.prober.probes.get(peer_id(1))
    assert probe is not None
    probe.pings_sent, probe.helpers = 4, {peer_id(2): 0.5}
    node.peers.transition(node.peer(2), PeerTrigger.LOST)
    node.prober.next_ping(peer_id(1), probe, 5.0)
    assert peer_id(2) not in node.prober.probes


# --- for others ---------------------------------------------------------------------------------


def request(node: ProbingNode, subject: int, now: float) -> list[Effect]:
    return node.prober.on_ping_req(PingReq(7, peer_id(subject)), peer_id(2), now)


def answer(*, alive: bool) -> Send:
    return Send((peer_id(2),), PingAck(7, alive))


def test_a_ping_req_for_a_peer_without_a_link_is_denied() -> None:
    node = ProbingNode(2)
    assert request(node, 99, 9.0) == [answer(alive=False)]
    node.peers.transition(node.peer(1), PeerTrigger.LOST)
    assert request(node, 1, 9.0) == [answer(alive=False)]


def test_a_peer_heard_within_the_ping_timeout_is_vouched_for_and_another_is_pinged() -> None:
    node = ProbingNode(2)
    node.peer(1).last_heard_at = 8.5
    assert request(node, 1, 8.9) == [answer(alive=True)]
    assert request(node, 1, 9.0) == [Send((peer_id(1),), Ping(0))]
    assert node.prober.deadline == 9.4, "four fifths of a ping timeout"
    assert node.prober.answer_expired(9.39) == []
    assert node.prober.answer_expired(9.4) == [answer(alive=False)]


def test_the_requester_is_answered_when_the_subject_is_heard() -> None:
    node = ProbingNode(2)
    request(node, 1, 9.0)
    assert node.prober.on_packet(peer_id(1), 9.2) == [answer(alive=True)]
    assert node.prober.on_packet(peer_id(1), 9.3) == []


def test_one_ping_req_beyond_the_limit_is_denied() -> None:
    node = ProbingNode(2)
    for _ in range(256):
        assert request(node, 1, 9.0) == [Send((peer_id(1),), Ping(0))]
    assert request(node, 1, 9.0) == [answer(alive=False)]


# --- what a packet ends -------------------------------------------------------------------------


def test_a_packet_of_a_pinged_peer_restores_trust_and_keeps_its_schedule() -> None:
    node = ProbingNode(2)
    node.awareness.increment(0.0, 3)
    node.prober.start(peer_id(1), 6.25)
    node.advance_to(6.25)
    node.peer(1).heartbeat_expected_from = 0.0
    assert node.prober.on_packet(peer_id(1), 6.5) == []
    assert node.awareness.score == 2
    assert node.peer(1).heartbeat_expected_from == 5.0
    assert peer_id(1) not in node.prober.probes
    node.prober.start(peer_id(1), 20.0)
    node.advance_to(20.0)
    node.prober.on_packet(peer_id(1), 21.0)
    assert node.peer(1).heartbeat_expected_from == 16.0, "at most an interval ago"


def test_a_packet_before_the_first_ping_proves_nothing_about_ourselves() -> None:
    node = ProbingNode(2)
    node.awareness.increment(0.0, 3)
    node.prober.start(peer_id(1), 6.25)
    node.prober.on_packet(peer_id(1), 6.0)
    assert node.awareness.score == 3
    assert node.peer(1).heartbeat_expected_from == 0.0
    node.prober.on_packet(peer_id(99), 6.0)  # of a peer that is not in the table


def test_the_end_of_a_link_says_whether_the_peer_was_pinged() -> None:
    node = ProbingNode(3)
    node.prober.start(peer_id(1), 0.0)
    node.prober.start(peer_id(2), 5.0)
    node.advance_to(0.0)
    assert node.prober.health_reason(peer_id(1)) == "being probed"
    assert node.prober.health_reason(peer_id(2)) == ""
    assert node.prober.health_reason(peer_id(3)) == ""
    assert node.prober.on_link_down(peer_id(1))
    assert not node.prober.on_link_down(peer_id(2))
    assert not node.prober.on_link_down(peer_id(3))


def test_a_report_that_others_hear_a_peer_counts_once_until_the_peer_timeout() -> None:
    for waited_s, is_heard in [(29.9, True), (30.0, False)]:
        node = ProbingNode(9)
        exhaust(node, 1, alive=True)
        assert node.prober.is_heard_by_others(peer_id(1), PROBE_S + waited_s) is is_heard
        assert not node.prober.is_heard_by_others(peer_id(1), PROBE_S)
    node = ProbingNode(9)
    exhaust(node, 1, alive=True)
    accuse(node, 1, 2, 3)
    assert not node.prober.is_heard_by_others(peer_id(1), PROBE_S)


def test_a_packet_or_a_new_link_ends_the_report_that_only_others_hear_a_peer() -> None:
    node = ProbingNode(9)
    exhaust(node, 1, alive=True)
    node.prober.on_link_up(peer_id(1))
    assert not node.prober.is_heard_by_others(peer_id(1), PROBE_S)
    exhaust(node, 2, alive=True)
    node.prober.on_packet(peer_id(2), PROBE_S)
    assert not node.prober.is_heard_by_others(peer_id(2), PROBE_S)


def test_a_node_that_is_cut_off_probes_again_after_an_interval_that_its_doubts_lengthen() -> None:
    node = ProbingNode(4)
    node.receive_from(4, 4.9)
    node.prober.start(peer_id(1), 5.0)
    now = 5.0
    while (probe := node.prober.probes.get(peer_id(1))) and probe.number == 1:
        now = node.prober.probes.deadline
        for subject, due in node.prober.probes.pop_due(now):
            node.prober.next_ping(subject, due, now)
            if subject != peer_id(1):
                node.prober.probes.remove(subject)
    again = node.prober.probes.get(peer_id(1))
    assert again is not None
    assert now == 6.5
    assert again.started_at == 6.5 + 2.0


def test_a_slow_probe_is_timed_from_its_start() -> None:
    node = ProbingNode(1)
    node.awareness.increment(0.0, 2)
    node.prober.start(peer_id(1), 5.0)
    node.advance_to(5.75)
    assert not node.peer(1).is_unresponsive
