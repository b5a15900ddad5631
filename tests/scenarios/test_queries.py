"""Queries through a whole cluster: each live member that is asked counts exactly once."""

from __future__ import annotations

from collections import Counter

import pytest

from grapevine_proto import NodeConfig
from grapevine_proto.events import Answer, AnswerStatus, MessageReceived, QueryEnd, QueryReport
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.query.filters import MemberFilter
from grapevine_proto.overlay.query.queries import Queries
from grapevine_proto.overlay.reverse_paths import ReversePaths
from grapevine_proto.sim import Network, Simulation
from grapevine_proto.wire.messages import Answers
from tests.scenarios.test_traces import add_member

LATENCY = (0.010, 0.050)


def cluster(
    nodes: int, max_peers: int, *, loss: float = 0.0, seed: int = 1, zones: tuple[str, ...] = ()
) -> Simulation:
    """A cluster whose nodes know each other and answer `who` with their number."""
    sim = Simulation(
        nodes=nodes,
        config=NodeConfig(max_peers=max_peers),
        network=Network(latency=LATENCY, loss=loss),
        seed=seed,
        zones=zones,
        initial_links=min(max_peers, nodes - 1),
        hash_trace=False,
    )
    sim.on_query("who", lambda number, _: b"%d" % number)
    sim.run(10.0)
    for node in sim.nodes:
        for other in sim.nodes:
            if other is not node:
                add_member(sim, node.number, other.number)
    return sim


def ended(sim: Simulation, query_id: MessageId, within_s: float = 65.0) -> QueryReport:
    assert sim.run_until(lambda: sim.query_report(query_id).end is not None, within_s)
    return sim.query_report(query_id)


def answers(sim: Simulation, query_id: MessageId, asker: int = 0) -> list[Answer]:
    return sim.nodes[asker].answers.get(query_id, [])


def check_answers(sim: Simulation, query_id: MessageId, expected: set[int], asker: int = 0) -> None:
    """Each expected node counts exactly once, with its own answer, and no other node does."""
    found = Counter(each.payload for each in answers(sim, query_id, asker))
    assert found == Counter(b"%d" % number for number in expected)
    ids = {each.peer_id for each in answers(sim, query_id, asker)}
    assert ids == {sim.nodes[number].peer_id for number in expected}


@pytest.mark.parametrize(
    ("nodes", "max_peers"), [(1, 5), (2, 5), (10, 50), (10, 3), (60, 5)], ids=str
)
@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
def test_each_live_member_counts_exactly_once(nodes: int, max_peers: int, loss: float) -> None:
    sim = cluster(nodes, max_peers, loss=loss)
    query_id = sim.query(0, "who", timeout_s=30.0, stall_s=10.0)
    report = ended(sim, query_id)
    assert (report.end, report.asked, report.answered) == (QueryEnd.COMPLETE, nodes, nodes)
    check_answers(sim, query_id, set(range(nodes)))


def test_a_query_is_no_message() -> None:
    sim = cluster(5, 3)
    messages: list[int] = []
    sim.listen(
        lambda _, number, event: (
            messages.append(number) if isinstance(event, MessageReceived) else None
        )
    )
    ended(sim, sim.query(0, "who"))
    sim.run(5.0)
    assert messages == []
    assert all(node.stats().gaps_abandoned == 0 for node in sim.nodes)


def test_a_member_without_a_handler_refuses_and_is_not_waited_for() -> None:
    sim = cluster(10, 4)
    report = ended(sim, sim.query(0, "what"))
    assert (report.end, report.refused, report.answered) == (QueryEnd.COMPLETE, 10, 0)


def test_members_that_crash_do_not_answer_and_the_others_do() -> None:
    sim = cluster(30, 4, loss=0.1)
    dead = {3, 11, 27}
    for number in dead:
        sim.crash(number)
    query_id = sim.query(0, "who", timeout_s=20.0, stall_s=20.0)
    sim.run(0.02)
    sim.crash(5)  # while the question spreads
    report = ended(sim, query_id)
    assert report.end is QueryEnd.DEADLINE
    assert set(report.unanswered) == {sim.nodes[number].peer_id for number in {*dead, 5}}
    check_answers(sim, query_id, set(range(30)) - dead - {5})


def test_members_that_join_and_restart_meanwhile_count_once() -> None:
    sim = cluster(20, 4, loss=0.1)
    query_id = sim.query(0, "who", timeout_s=20.0, stall_s=20.0)
    sim.add(bootstrap=[1, 2])
    sim.run(0.05)
    sim.restart(7)
    report = ended(sim, query_id)
    found = Counter(each.peer_id for each in answers(sim, query_id))
    assert max(found.values()) == 1
    live = {node.peer_id for node in sim.nodes[:20]}
    assert live - {sim.nodes[7].peer_id} <= found.keys()
    assert report.asked == 20


def test_a_node_that_is_cut_off_one_way_is_asked_through_others() -> None:
    sim = cluster(12, 11)
    sim.partition([3], [0], one_way=True)
    query_id = sim.query(0, "who", timeout_s=30.0, stall_s=20.0)
    ended(sim, query_id)
    check_answers(sim, query_id, set(range(12)))


def test_answers_reach_an_asker_that_the_members_have_no_path_to() -> None:
    """Three nodes, of which the first and the last reach each other through the second alone; with direct
    replies such a member never answers (hashicorp/serf#235)."""
    sim = cluster(3, 2)
    sim.partition([0], [2], one_way=True)
    sim.partition([2], [0], one_way=True)
    sim.run(60.0)
    for asker in (0, 2):
        query_id = sim.query(asker, "who", timeout_s=10.0, filter=MemberFilter())
        sim.run(10.0)
        numbers = {each.payload for each in answers(sim, query_id, asker)}
        assert numbers == {b"0", b"1", b"2"}


def test_filters_ask_some_members_alone() -> None:
    sim = cluster(12, 4, zones=("eu", "us", "ap"))
    query_id = sim.query(1, "who", filter=MemberFilter(zone="eu"))
    assert ended(sim, query_id).end is QueryEnd.COMPLETE
    check_answers(sim, query_id, {0, 3, 6, 9}, asker=1)
    ids = tuple(PeerId(sim.nodes[number].peer_id or b"") for number in (2, 7))
    query_id = sim.query(1, "who", filter=MemberFilter(ids=ids))
    ended(sim, query_id)
    check_answers(sim, query_id, {2, 7}, asker=1)


def test_large_answers_are_fetched_from_members_without_a_link_too() -> None:
    sim = cluster(12, 4, loss=0.1)
    bodies = {number: bytes((number,)) * 65_536 for number in range(12)}
    sim.on_query("much", lambda number, _: bodies[number])
    query_id = sim.query(0, "much", timeout_s=60.0, stall_s=60.0)
    report = ended(sim, query_id)
    assert (report.end, report.answered, report.failed) == (QueryEnd.COMPLETE, 12, 0)
    found = {each.peer_id: each.payload for each in answers(sim, query_id)}
    assert found == {node.peer_id: bodies[node.number] for node in sim.nodes}


def test_answers_of_a_sample_of_a_large_cluster_are_enough() -> None:
    sim = cluster(150, 8)
    report = ended(sim, sim.query(0, "who", sample=20))
    assert report.end is QueryEnd.COMPLETE
    assert report.asked == 20
    assert report.answered == report.asked
    report = ended(sim, sim.query(0, "who", limit=10))
    assert (report.end, report.answered) == (QueryEnd.LIMIT, 10)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_malicious_peer_of_the_asker_hides_at_most_one_answer(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """It acknowledges the answers of others and forwards none."""
    sim = cluster(20, 4, seed=seed)
    asker, malicious = sim.nodes[0].engine, None
    assert asker is not None
    for node in sim.nodes[1:]:
        if node.engine is not None and asker._overlay.peers.is_linked(node.engine.peer_id):
            malicious = node.engine
            break
    assert malicious is not None
    flush = ReversePaths._flush

    def withhold(self: ReversePaths, route: object, now: float) -> object:  # type: ignore[type-arg]
        if self is malicious._overlay.queries.reverse_paths:
            route.pending.clear()  # type: ignore[attr-defined]
        return flush(self, route, now)  # type: ignore[arg-type]

    monkeypatch.setattr(ReversePaths, "_flush", withhold)
    report = ended(sim, sim.query(0, "who"))
    assert len(set(report.unanswered) - {malicious.peer_id}) <= 1


def test_forged_answers_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member answers in the names of all others, without their signatures."""
    sim = cluster(12, 4)
    malicious = sim.nodes[5].engine
    assert malicious is not None
    handle = Queries.handle
    all_members = [node.peer_id for node in sim.nodes if node.peer_id is not None]

    def forge(self: Queries, message: object, sender: PeerId, now: float) -> object:
        if self is malicious._overlay.queries and isinstance(message, Answers):
            for answer in list(message.answers):
                for each in all_members:
                    route = self.reverse_paths._routes.get(message.message_id)
                    if route is not None and answer.signature:
                        route.pending.append(
                            type(answer)(
                                each, 0, 1, 1, answer.status, b"forged", 0, answer.signature
                            )
                        )
        return handle(self, message, sender, now)  # type: ignore[arg-type]

    monkeypatch.setattr(Queries, "handle", forge)
    query_id = sim.query(0, "who")
    ended(sim, query_id)
    assert all(each.payload != b"forged" for each in answers(sim, query_id))
    statuses = {each.status for each in answers(sim, query_id)}
    assert statuses == {AnswerStatus.ANSWERED}


def test_the_first_question_of_a_cluster_needs_one_way_per_hop_and_grows_the_tree() -> None:
    sim = cluster(40, 4)
    report = ended(sim, sim.query(0, "who", timeout_s=20.0, stall_s=20.0))
    assert report.arrivals_ms[-1] < 400  # an announced rumor takes three ways per hop
    sim.run(5.0)
    before = sum(node.stats().relayed for node in sim.nodes)
    message_id = sim.broadcast(7, b"along the tree")
    sim.run(1.0)
    assert len(sim.deliveries(message_id)) == 39
    assert sum(node.stats().relayed for node in sim.nodes) - before < 45


def test_at_ten_percent_loss_answers_arrive_within_a_second() -> None:
    sim = cluster(60, 5, loss=0.1)
    report = ended(sim, sim.query(0, "who", timeout_s=20.0, stall_s=20.0))
    assert report.answered == 60
    assert report.arrivals_ms[-1] < 1000
