"""Shared by the query tests: a node that asks and is asked, questions of others, and answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from grapevine_proto.config.sections import RateLimitConfig
from grapevine_proto.events import Answer, QueryEnded, QueryReceived, QueryReport, Question
from grapevine_proto.events import QueryAnswered as Answered
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.effects import Effect, Emit
from grapevine_proto.overlay.members import MemberTable
from grapevine_proto.overlay.peers import PeerTable
from grapevine_proto.overlay.query.queries import Queries
from grapevine_proto.overlay.query.request import QueryRequest
from grapevine_proto.wire.attributes import rumor_attributes
from grapevine_proto.wire.messages import Answers, RumorCopy
from grapevine_proto.wire.query_terms import QueryTerms
from grapevine_proto.wire.signed import AnswerCode, PeerRecord, QueryAnswer, Rumor
from tests.proto.overlay import timeline
from tests.proto.overlay.builders import EPOCH, context, identity, peer_id, record
from tests.proto.overlay.trace.traces import FAR, ORIGIN, OUR_NUMBER, message_id

__all__ = ["FAR", "ORIGIN", "OUR_NUMBER", "message_id"]

TERMS = QueryTerms("up", 5000)
OURS = peer_id(OUR_NUMBER)


def question(
    sequence: int = 1,
    *,
    origin: int = ORIGIN,
    terms: QueryTerms = TERMS,
    payloads: tuple[bytes, ...] = (b"?",),
    age_ms: int = 70,
) -> RumorCopy:
    lengths = tuple(map(len, payloads))
    attributes = rumor_attributes(query=terms)
    rumor = Rumor(
        peer_id(origin), EPOCH, sequence, lengths, b"".join(payloads), bytes(64), attributes
    )
    return RumorCopy(rumor, 2, age_ms)


def answer_of(
    member: int,
    query_id: MessageId,
    payload: bytes = b"yes",
    *,
    code: AnswerCode = AnswerCode.ANSWER,
    index: int = 0,
    is_signed: bool = True,
) -> QueryAnswer:
    answer = QueryAnswer(peer_id(member), index, 3, 40, code, payload)
    return answer.signed(identity(member), "default", query_id) if is_signed else answer


def forged(member: int, query_id: MessageId) -> QueryAnswer:
    return replace(answer_of(member, query_id), payload=b"no")


@dataclass
class Node:
    """A node linked to peers 1 to `links`, with an RTT of 50 ms, that knows `members` members."""

    links: int = 4
    members: int = 0
    zone: str = ""
    is_limited: bool = True
    peers: PeerTable = field(init=False)
    table: MemberTable = field(init=False)
    queries: Queries = field(init=False)
    record: PeerRecord = field(init=False)

    def __post_init__(self) -> None:
        node = context(OUR_NUMBER, rate_limit=RateLimitConfig(enabled=self.is_limited))
        self.record = record(OUR_NUMBER, zone=self.zone)
        self.peers, self.table = node.peers, node.members
        self.queries = Queries(node, self)
        for number in range(1, self.links + 1):
            self.link(number)
        for number in range(1, self.members + 1):
            self.table.ensure(record(number), 0.0)

    def link(self, number: int) -> None:
        timeline.link(self.peers, number)

    # --- asking ---------------------------------------------------------------------------------

    def ask(
        self, sequence: int = 1, *, at: float = 0.0, **arguments: object
    ) -> tuple[MessageId, list[Effect]]:
        """Begins a query; its ID, and the effects."""
        request = QueryRequest("up", b"?", **arguments)  # type: ignore[arg-type]
        query_id = message_id(sequence, OUR_NUMBER)
        terms = self.queries.with_sample(query_id, request, self.queries.plan(request, at))
        return query_id, self.queries.start(query_id, request, terms, at)

    def receive(
        self,
        sender: int,
        query_id: MessageId,
        *answers: QueryAnswer,
        at: float = 0.0,
        number: int = 7,
    ) -> list[Effect]:
        return self.queries.handle(Answers(number, query_id, answers), peer_id(sender), at)

    def report(self, query_id: MessageId) -> QueryReport:
        report = self.queries.report(query_id)
        assert report is not None
        return report

    # --- time -----------------------------------------------------------------------------------

    def advance(self) -> tuple[float, list[Effect]]:
        return timeline.advance(self.queries)

    def sent(self, until: float = 60.0) -> list[tuple[float, PeerId, Answers]]:
        """All Answers messages sent until `until`."""
        return timeline.sent(self.queries, Answers, until)


def _events(effects: list[Effect]) -> list[object]:
    return [each.event for each in effects if isinstance(each, Emit)]


def answers_in(effects: list[Effect]) -> list[Answer]:
    return [each.answer for each in _events(effects) if isinstance(each, Answered)]


def ends_in(effects: list[Effect]) -> list[QueryReport]:
    return [each.report for each in _events(effects) if isinstance(each, QueryEnded)]


def questions_in(effects: list[Effect]) -> list[Question]:
    return [each.question for each in _events(effects) if isinstance(each, QueryReceived)]
