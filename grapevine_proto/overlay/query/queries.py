"""Queries: asks all members or some of them, and gathers their answers.

    origin -> Rumor(query) ...      spreads like any rumor, and is not delivered as a message
    member -> Answers -> ... -> origin   from each member that is asked, along `reverse_paths`
    receiver -> AnswerAck
    origin -> AnswerFetch -> member -> Answers   for an answer too large for that way

Invariants:

- An answer is signed by its member, or sent by the member itself over its session with the origin.
  A peer that sends any other is charged for it.
- The first answer of each member and index counts, and only if the member was asked.
- A query ends once all known members that were asked have answered, enough answers have arrived, none has
  arrived for a while and no member is known to work on one, or its deadline has passed. Later answers are
  dropped.
- At most `QUERIES_LIMIT` queries are open, and as many are begun within `ROUTE_MIN_LIFETIME_S`: for more,
  other nodes have no route. Each has at most `UNKNOWN_MEMBERS_LIMIT` answers of unknown members.
- Relaying a question does not depend on its filter. A copy older than its deadline asks nobody.
"""

from __future__ import annotations

import difflib
import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final, Protocol, assert_never

from grapevine_proto.errors import DropReason, NoMatchingMember, TooManyQueries
from grapevine_proto.events import (
    Answer,
    AnswerStatus,
    MemberStatus,
    QueryAnswered,
    QueryEnd,
    QueryEnded,
    QueryReceived,
    QueryReport,
    Question,
)
from grapevine_proto.ids import MessageId, PeerId
from grapevine_proto.overlay.context import OverlayContext
from grapevine_proto.overlay.effects import CountDrop, Effect, Emit, Send
from grapevine_proto.overlay.peers import TimeBounds
from grapevine_proto.overlay.query.fetches import AnswerFetcher
from grapevine_proto.overlay.query.filters import matches
from grapevine_proto.overlay.query.questions import Questions
from grapevine_proto.overlay.query.request import QueryRequest
from grapevine_proto.overlay.reverse_paths import (
    ANSWER_SPREAD_S,
    ROUTE_MIN_LIFETIME_S,
    AskedSet,
    PathLimits,
    ReversePaths,
    message_id_of,
)
from grapevine_proto.overlay.sample import MemberSample
from grapevine_proto.wire.messages import AnswerAck, AnswerFetch, Answers, IHave, Offer, RumorCopy
from grapevine_proto.wire.query_terms import ASK_ALL, MAX_QUESTION_BYTES, PREFIX_BYTES, QueryTerms
from grapevine_proto.wire.signed import AnswerCode, PeerRecord, QueryAnswer, Rumor

QUERIES_LIMIT: Final = 16
REPORTS_LIMIT: Final = 16  # of queries that have ended
SUGGESTED_ZONES_LIMIT: Final = 100  # compared with a mistyped one; each takes some microseconds
UNKNOWN_MEMBERS_LIMIT: Final = 256  # answers per query from members not in our table
SPREAD_PER_MEMBER_S: Final = 0.0003  # a small cluster needs little spreading

ANSWERS_PER_MESSAGE: Final = 16
ANSWERS_MESSAGE_BYTES: Final = 1050  # fills a datagram, with its header
ANSWERS_PER_ROUTE_LIMIT: Final = 1024
ANSWERS_PER_PEER_LIMIT: Final = 768  # of those: one link of a tree may bring most of them
ANSWER_BYTES_PER_ROUTE_LIMIT: Final = 1 << 20
ANSWER_BYTES_HELD_LIMIT: Final = 16 << 20
UNACKED_BATCHES_LIMIT: Final = 2048  # each answer of a route may need a message of its own
URGENT_ANSWERS: Final = 32  # per route: in a small cluster latency counts, in a large one datagrams
SECOND_PATH_AFTER_S: Final = 0.3  # sooner than a query stalls
ACK_TIMEOUT_RTTS: Final = 1.5  # a needless retry costs a datagram, a late one delays a program
ACK_TIMEOUT_BOUNDS: Final = TimeBounds(0.080, 0.500)

_STATUS_OF_CODE: Final = {
    AnswerCode.ANSWER: AnswerStatus.ANSWERED,
    AnswerCode.REFUSED: AnswerStatus.REFUSED,
    AnswerCode.FAILED: AnswerStatus.FAILED,
}
_CODE_OF_STATUS: Final = {status: code for code, status in _STATUS_OF_CODE.items()}


class AskedMembers:
    """The members that a query asks by sample and ID prefixes, which every node can check."""

    def __init__(self, sample: MemberSample, prefixes: frozenset[bytes] | None) -> None:
        self._sample = sample
        self._prefixes = prefixes

    def __contains__(self, member: PeerId) -> bool:
        is_named = self._prefixes is None or member[:PREFIX_BYTES] in self._prefixes
        return is_named and member in self._sample


class RecordHolder(Protocol):
    """Owns the record of this node."""

    @property
    def record(self) -> PeerRecord: ...


class _Query:
    """An open query of this node."""

    def __init__(
        self,
        message_id: MessageId,
        request: QueryRequest,
        terms: QueryTerms,
        asked: AskedSet,
        members: Iterable[PeerId],
        now: float,
    ) -> None:
        self.message_id = message_id
        self.request = request
        self.asked = asked
        self.started_at = now
        self.deadline_at = now + terms.deadline_ms / 1000
        self.stall_at = math.inf
        self.statuses: dict[PeerId, AnswerStatus | None] = dict.fromkeys(members)
        self.waiting = len(self.statuses)  # members without an answer
        self.seen: set[tuple[PeerId, int, bool]] = set()
        self.working: set[PeerId] = set()  # acknowledged and not answered yet
        self.others: set[PeerId] = set()  # unknown members that answered
        self.wanted = math.inf if request.limit is None else request.limit
        self.arrivals_ms: list[int] = []

    def wants(self, answer: QueryAnswer) -> bool:
        """Whether an answer is from a member that was asked, and there is room for it."""
        member, ids = answer.member, self.request.filter.ids
        if member not in self.asked or (ids is not None and member not in ids):
            return False
        if member in self.statuses or member in self.others:
            return True
        return len(self.others) < UNKNOWN_MEMBERS_LIMIT

    def record(self, answer: Answer, now: float) -> None:
        """Counts an answer that arrived."""
        member = answer.peer_id
        if member not in self.statuses:
            self.others.add(member)
        elif self.statuses[member] is None:
            self.statuses[member] = answer.status
            self.waiting -= 1
        self.arrivals_ms.append(answer.arrived_ms)
        self.wanted -= answer.status is AnswerStatus.ANSWERED
        self.stall_at = now + self.request.stall_s

    def end_at(self, now: float, *, is_fetching: bool) -> QueryEnd | None:
        """Returns why the query ends now; None if it does not."""
        if not self.waiting:
            return QueryEnd.COMPLETE
        if self.wanted <= 0:
            return QueryEnd.LIMIT
        if now >= self.deadline_at:
            return QueryEnd.DEADLINE
        if now >= self.stall_at and not self.working and not is_fetching:
            return QueryEnd.STALLED
        return None

    def to_report(self, end: QueryEnd | None = None) -> QueryReport:
        statuses = list(self.statuses.values())
        return QueryReport(
            self.message_id,
            self.request.name,
            self.started_at,
            asked=len(statuses),
            answered=statuses.count(AnswerStatus.ANSWERED),
            refused=statuses.count(AnswerStatus.REFUSED),
            failed=statuses.count(AnswerStatus.FAILED),
            unanswered=tuple(member for member, status in self.statuses.items() if status is None),
            others=len(self.others),
            arrivals_ms=tuple(self.arrivals_ms),
            end=end,
        )


class Queries:
    """The state machine of queries, driven by `plan` and `start`, `answer`, messages and its deadline.
    Broadcast reports rumors to it, see `RumorWatcher`.

    Args:
        local_record: holds the record of this node.
    """

    def __init__(self, context: OverlayContext, local_record: RecordHolder) -> None:
        self._cluster = context.config.current.cluster
        self._our_id = context.our_id
        self._members = context.members
        self._verifier = context.verifier
        self._rng = context.rng
        self._local_record = local_record
        self._open: OrderedDict[MessageId, _Query] = OrderedDict()
        self._started_at: deque[float] = deque(maxlen=QUERIES_LIMIT)
        self._reports: deque[QueryReport] = deque(maxlen=REPORTS_LIMIT)
        self._questions = Questions(self._our_id)
        self._fetcher = AnswerFetcher()
        self._due_at = math.inf  # the earliest of all open queries
        self._refused = 0
        limits = PathLimits(
            items_per_message=ANSWERS_PER_MESSAGE,
            bytes_per_message=ANSWERS_MESSAGE_BYTES,
            items_per_route=ANSWERS_PER_ROUTE_LIMIT,
            bytes_per_route=ANSWER_BYTES_PER_ROUTE_LIMIT,
            bytes_held=ANSWER_BYTES_HELD_LIMIT,
            items_per_peer=ANSWERS_PER_PEER_LIMIT,
            unacked_batches=UNACKED_BATCHES_LIMIT,
            second_path_after_s=SECOND_PATH_AFTER_S,
            urgent_items=URGENT_ANSWERS,
            has_path_by_any_peer=True,
            ack_timeout_rtts=ACK_TIMEOUT_RTTS,
            ack_timeout_bounds=ACK_TIMEOUT_BOUNDS,
        )
        self.reverse_paths: ReversePaths[QueryAnswer] = ReversePaths(context, limits, Answers)

    @property
    def refused(self) -> int:
        """The number of answers and routes refused: for lack of room, as invalid, or too late."""
        return self._refused + self.reverse_paths.refused

    # --- own queries ----------------------------------------------------------------------------

    def _matching(self, request: QueryRequest) -> list[PeerId]:
        """Returns the members that the filter admits, this node last."""
        inactive = (MemberStatus.DOWN, MemberStatus.LEFT)
        found = [
            each.record.peer_id
            for each in self._members
            if each.status not in inactive and request.filter.admits(each.record, each.tags)
        ]
        own_tags = self._members.tags_of(self._our_id)
        is_asked = request.filter.admits(self._local_record.record, own_tags)
        return [*found, self._our_id] if is_asked else found

    def _suggest_zone(self, request: QueryRequest) -> str:
        """Returns the known zone nearest to that of the filter, to append to an error; empty without one."""
        zones = {each.record.zone for each in self._members} | {self._local_record.record.zone}
        if request.filter.zone is None or request.filter.zone in zones:
            return ""
        candidates = sorted(zones - {""})[:SUGGESTED_ZONES_LIMIT]
        nearest = difflib.get_close_matches(request.filter.zone, candidates, n=1)
        return f"; did you mean zone {nearest[0]!r}?" if nearest else ""

    def plan(self, request: QueryRequest, now: float) -> QueryTerms:
        """Returns the terms for a query. Raises NoMatchingMember, TooManyQueries."""
        matching = self._matching(request)
        if not matching:
            raise NoMatchingMember(
                f"no member matches {request.filter}{self._suggest_zone(request)}"
            )
        oldest_at = self._started_at[0] if len(self._started_at) == QUERIES_LIMIT else -math.inf
        if len(self._open) >= QUERIES_LIMIT or now - oldest_at < ROUTE_MIN_LIFETIME_S:
            raise TooManyQueries(
                f"{QUERIES_LIMIT} queries of this node are open"
                f" or were begun within {ROUTE_MIN_LIFETIME_S:g} s; try again soon"
            )
        return request.to_terms(len(matching))

    def with_sample(
        self, message_id: MessageId, request: QueryRequest, terms: QueryTerms
    ) -> QueryTerms:
        """Returns the planned terms with the share that samples as many known members as are wanted: one
        computed from their number alone might sample none of a few."""
        if terms.share == ASK_ALL:
            return terms
        sample = MemberSample(self._cluster, message_id, terms.share)
        share = sample.share_for(request.wanted_members, self._matching(request))
        return terms._replace(share=share)

    def start(
        self, message_id: MessageId, request: QueryRequest, terms: QueryTerms, now: float
    ) -> list[Effect]:
        """Opens a planned query whose rumor is about to be published."""
        asked = self._asked_by(message_id, terms)
        members = [each for each in self._matching(request) if each in asked]
        query = _Query(message_id, request, terms, asked, members, now)
        self._open[message_id] = query
        self._started_at.append(now)
        effects: list[Effect] = []
        if self._our_id in query.statuses:
            effects = self._ask(message_id, terms, request.payload, 0, 0, now)
        return effects + self._end_if_over(query, now)

    def cancel(self, message_id: MessageId, now: float) -> list[Effect]:
        """Ends a query of this node; does nothing if it is not open."""
        query = self._open.get(message_id)
        return [] if query is None else self._end(query, QueryEnd.CANCELED, now)

    def report(self, message_id: MessageId) -> QueryReport | None:
        """Returns the report of a query of this node; None if it is none of the latest `REPORTS_LIMIT`."""
        return next((each for each in self.reports() if each.id == message_id), None)

    def reports(self) -> list[QueryReport]:
        """Returns the latest queries of this node: those that ended, then the open ones, oldest first."""
        return [*self._reports, *(query.to_report() for query in self._open.values())]

    def _asked_by(self, message_id: MessageId, terms: QueryTerms) -> AskedMembers:
        sample = MemberSample(self._cluster, message_id, terms.share)
        return AskedMembers(sample, terms.id_prefixes)

    def _end_if_over(self, query: _Query, now: float) -> list[Effect]:
        is_fetching = self._fetcher.is_fetching(query.message_id)
        end = query.end_at(now, is_fetching=is_fetching)
        if end is not None:
            return self._end(query, end, now)
        stalls = not query.working and not is_fetching
        due_at = min(query.deadline_at, query.stall_at) if stalls else query.deadline_at
        self._due_at = min(self._due_at, due_at)
        return []

    def _end(self, query: _Query, end: QueryEnd, now: float) -> list[Effect]:
        del self._open[query.message_id]
        self._fetcher.forget(query.message_id, now)
        if not self._open:
            self._due_at = math.inf
        report = query.to_report(end)
        self._reports.append(report)
        return [Emit(QueryEnded(report))]

    # --- questions ------------------------------------------------------------------------------

    def on_rumor(self, copy: RumorCopy, holders: Iterable[PeerId], now: float) -> list[Effect]:
        """Opens a route for a question that is new here, and asks the application if this node is asked."""
        rumor = copy.rumor
        terms = rumor.known_attributes.query
        if terms is None or rumor.origin == self._our_id:
            return []
        message_id = message_id_of(rumor)
        asked = self._asked_by(message_id, terms)
        age_s, deadline_s = copy.age_ms / 1000, terms.deadline_ms / 1000
        if not self.reverse_paths.open(message_id, asked, holders, now, now + deadline_s - age_s):
            return []
        if len(rumor.lengths) != 1 or len(rumor.body) > MAX_QUESTION_BYTES:
            self._refused += 1
            return []
        own_tags = self._members.tags_of(self._our_id)
        is_asked = self._our_id in asked and matches(
            terms.clauses, self._local_record.record, own_tags
        )
        if not is_asked or age_s >= deadline_s:
            return []
        return self._ask(message_id, terms, rumor.body, copy.hops, copy.age_ms, now)

    def on_duplicate(self, rumor: Rumor, sender: PeerId) -> None:
        """Notes that `sender` has `rumor` too, and so a path to its origin."""
        if rumor.known_attributes.query is not None:
            self.reverse_paths.on_duplicate(message_id_of(rumor), sender)

    def on_conflict(self, rumor: Rumor) -> None:
        """Does nothing: the first content counts."""

    def on_ids(self, ids: IHave | Offer, sender: PeerId) -> None:
        """Notes that `sender` has these rumors."""
        self.reverse_paths.on_ids(ids, sender)

    def _ask(
        self,
        message_id: MessageId,
        terms: QueryTerms,
        payload: bytes,
        hops: int,
        age_ms: int,
        now: float,
    ) -> list[Effect]:
        self._questions.expire(now)
        remaining_s = (terms.deadline_ms - age_ms) / 1000
        limit_bytes = terms.max_answer_bytes
        self._questions.add(message_id, hops, age_ms, now + remaining_s, limit_bytes)
        question = Question(message_id, terms.name, payload, remaining_s, limit_bytes, hops)
        return [Emit(QueryReceived(question))]

    def is_pending(self, message_id: MessageId, now: float) -> bool:
        """Whether this node was asked this question and can still answer it."""
        return self._questions.is_pending(message_id, now)

    def acknowledge(self, message_id: MessageId, index: int, now: float) -> list[Effect]:
        """Tells the origin that the handler of a question is still running."""
        return self._answer(message_id, index, AnswerCode.ACK, b"", now)

    def answer(
        self, message_id: MessageId, index: int, status: AnswerStatus, payload: bytes, now: float
    ) -> list[Effect]:
        """Sends the application's answer to a question; does nothing if it is over or answered already."""
        return self._answer(message_id, index, _CODE_OF_STATUS[status], payload, now)

    def _answer(
        self, message_id: MessageId, index: int, code: AnswerCode, payload: bytes, now: float
    ) -> list[Effect]:
        query = self._open.get(message_id)
        if query is not None:
            return self._answer_own(query, index, code, payload, now)
        answer = self._questions.answer(message_id, index, code, payload, now)
        spread_s = min(SPREAD_PER_MEMBER_S * (len(self._members) + 1), ANSWER_SPREAD_S)
        at = now + spread_s * self._rng.random()
        if answer is None or not self.reverse_paths.submit(message_id, answer, at):
            self._refused += 1
        return []

    def _answer_own(
        self, query: _Query, index: int, code: AnswerCode, payload: bytes, now: float
    ) -> list[Effect]:
        """Records this node's answer to its own query."""
        key = (self._our_id, index, code is AnswerCode.ACK)
        if key in query.seen or self._our_id not in query.statuses:
            self._refused += 1
            return []
        query.seen.add(key)
        if code is AnswerCode.ACK:
            query.working.add(self._our_id)
            return self._end_if_over(query, now)
        query.seen.add((self._our_id, index, True))
        query.working.discard(self._our_id)
        if code is AnswerCode.ANSWER and len(payload) > query.request.max_answer_bytes:
            code, payload = AnswerCode.FAILED, b"the answer is too large"
        answer = QueryAnswer(self._our_id, index, 0, 0, code)
        return self._record(query, answer, payload, now)

    # --- answers --------------------------------------------------------------------------------

    def handle(
        self, message: Answers | AnswerAck | AnswerFetch, sender: PeerId, now: float
    ) -> list[Effect]:
        match message:
            case Answers():
                if message.number:
                    return self._on_answers(message, sender, now)
                return self._on_fetched(message, sender, now)
            case AnswerAck(number):
                self.reverse_paths.on_ack(number, sender, now)
                return []
            case AnswerFetch(message_id, index):
                return self._on_fetch(message_id, index, sender, now)
            case _:
                assert_never(message)

    def _on_answers(self, message: Answers, sender: PeerId, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for answer in message.answers:
            query = self._open.get(message.message_id)
            if not self._is_genuine(message.message_id, answer, sender, now):
                return [*effects, CountDrop(sender, DropReason.BAD_SIGNATURE)]
            if query is None or answer.key in query.seen:
                continue
            if not query.wants(answer) or not self._try_charge(answer, sender, now):
                self._refused += 1
                continue
            if answer.signature and not answer.is_authentic(self._cluster, message.message_id):
                return [*effects, CountDrop(sender, DropReason.BAD_SIGNATURE)]
            effects += self._on_answer(query, answer, now)
        return [*effects, Send((sender,), AnswerAck(message.number))]

    def _is_genuine(
        self, message_id: MessageId, answer: QueryAnswer, sender: PeerId, now: float
    ) -> bool:
        """Forwards an answer to the query of another node; False if it is forged, which is the fault of
        `sender`."""
        is_firsthand = not answer.signature
        if is_firsthand and (answer.member != sender or message_id.origin != self._our_id):
            return False
        if message_id in self._open:
            return True
        return self.reverse_paths.relay(message_id, answer, sender, now)

    def _try_charge(self, answer: QueryAnswer, sender: PeerId, now: float) -> bool:
        return not answer.signature or self._verifier.try_charge_check(sender, now)

    def _on_answer(self, query: _Query, answer: QueryAnswer, now: float) -> list[Effect]:
        """Handles an answer to a query of this node, the first with its key."""
        query.seen.add(answer.key)
        if answer.status is AnswerCode.ACK:
            if query.statuses.get(answer.member, AnswerStatus.ANSWERED) is None:
                query.working.add(answer.member)
            return self._end_if_over(query, now)
        query.seen.add((answer.member, answer.index, True))  # an ack that was overtaken
        query.working.discard(answer.member)
        if answer.status is not AnswerCode.LARGE:
            return self._record(query, answer, answer.payload, now)
        if self._fetcher.add(query.message_id, answer, now):
            return self._end_if_over(query, now)
        return self._record_failure(query, answer, b"the answer is too large", now)

    def _record_failure(
        self, query: _Query, answer: QueryAnswer, reason: bytes, now: float
    ) -> list[Effect]:
        failed = QueryAnswer(
            answer.member, answer.index, answer.hops, answer.delay_ms, AnswerCode.FAILED
        )
        return self._record(query, failed, reason, now)

    def _record(
        self, query: _Query, answer: QueryAnswer, payload: bytes, now: float
    ) -> list[Effect]:
        recorded = Answer(
            answer.member,
            _STATUS_OF_CODE.get(answer.status, AnswerStatus.ANSWERED),
            payload,
            answer.hops,
            answer.delay_ms,
            round((now - query.started_at) * 1000),
            answer.index,
        )
        query.record(recorded, now)
        emit = Emit(QueryAnswered(query.message_id, recorded))
        return [emit, *self._end_if_over(query, now)]

    # --- large answers --------------------------------------------------------------------------

    def _on_fetch(
        self, message_id: MessageId, index: int, sender: PeerId, now: float
    ) -> list[Effect]:
        """Sends a large answer of this node to the origin of its query."""
        answer = None
        if sender == message_id.origin:
            answer = self._questions.fetch(message_id, index, now)
        if answer is None:
            self._refused += 1
            return []
        return [Send((sender,), Answers(0, message_id, (answer,)))]

    def _on_fetched(self, message: Answers, sender: PeerId, now: float) -> list[Effect]:
        query = self._open.get(message.message_id)
        effects: list[Effect] = []
        for reply in message.answers:
            answer = None
            if query is not None and reply.member == sender:
                answer = self._fetcher.on_reply(message.message_id, reply, now)
            if query is None or answer is None:
                self._refused += 1
            else:
                effects += self._record(query, answer, reply.payload, now)
        return effects

    # --- time -----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return min(self._due_at, self.reverse_paths.deadline, self._fetcher.deadline)

    def advance(self, now: float) -> list[Effect]:
        if now < self.deadline:
            return []
        effects: list[Effect] = []
        if now >= self._fetcher.deadline:
            effects, failed = self._fetcher.advance(now)
            for message_id, answer in failed:
                query = self._open.get(message_id)
                if query is not None:
                    reason = b"the answer could not be fetched"
                    effects += self._record_failure(query, answer, reason, now)
        self._due_at = math.inf
        for query in list(self._open.values()):
            effects += self._end_if_over(query, now)
        return effects + self.reverse_paths.advance(now)
