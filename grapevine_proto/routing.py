"""Messages to machines, and what machines ask for to the world.

What must stay true:

- It decides nothing: one `match` says which machine hears a message, one what is done for an effect,
  both with `assert_never`.
- Effects are performed in the order in which they were asked for.
- Each refusal is counted under one `DropReason`.
- An error of this program while it serves a peer ends the link with that peer and nothing else:
  `contain` counts it, tells of it, and what was asked for the others is done.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable
from typing import Final, assert_never

from grapevine_proto import codec
from grapevine_proto.config import NodeConfig
from grapevine_proto.errors import DropReason, Offense, Refused
from grapevine_proto.events import (
    AntiEntropyRound,
    DatagramDropped,
    Event,
    FaultContained,
    Message,
    MessageReceived,
    MessageSent,
    PeerState,
    PeerStateChanged,
    RoundOutcome,
    Standing,
    StandingChanged,
    Via,
)
from grapevine_proto.faults import describe
from grapevine_proto.handshakes import Handshakes
from grapevine_proto.ids import Address, MessageId, PeerId
from grapevine_proto.link.link import Link
from grapevine_proto.links import Links
from grapevine_proto.looks import peer_info
from grapevine_proto.machines import Machines
from grapevine_proto.messages import (
    Ack,
    Announce,
    Ask,
    Close,
    CloseReason,
    Digest,
    Empty,
    Frame,
    Graft,
    Heartbeat,
    Ids,
    InSync,
    Kind,
    Near,
    Offer,
    Opinions,
    OverlayMessage,
    Pause,
    Ping,
    PingFor,
    Private,
    Prune,
    Receipts,
    ReceiptsTaken,
    Records,
    Repair,
    Roll,
    Rumors,
    Short,
    Subscribe,
    Vector,
    Want,
)
from grapevine_proto.overlay.effects import (
    Blame,
    Credit,
    Deliver,
    Dial,
    Drop,
    Effect,
    Emit,
    Learn,
    Moved,
    Penalize,
    Reopen,
    Send,
    Stop,
)
from grapevine_proto.overlay.serving import REPLY_DATAGRAMS
from grapevine_proto.shorts import Shorts, Waiting
from grapevine_proto.signed import Record
from grapevine_proto.voice import Voice

BRIEF: Final = (Private, Digest, InSync, Vector, Want, Repair, Records, Empty, Short)
"""What may be said on a short session, besides Close: private words and repair."""
FAULTS_TOLD_EVERY_S: Final = (
    1.0  # those of no peer in particular, which a stranger may cause at will
)
AGREED: Final = (RoundOutcome.IN_SYNC, RoundOutcome.REPAIRED)  # the peer has what we have


class Routing:
    """Between links and machines. `events` is what happened since the engine last took them; `changes`
    grows with whatever is worth saving of links; `stopped` says why the node must not go on."""

    def __init__(
        self,
        config: NodeConfig,
        links: Links,
        shorts: Shorts,
        handshakes: Handshakes,
        machines: Machines,
        voice: Voice,
    ) -> None:
        self.config = config
        self._links = links
        self._shorts = shorts
        self._handshakes = handshakes
        self._machines = machines
        self._voice = voice
        self._our_id = machines.membership.record.peer_id
        self.events: list[Event] = []
        self.drops: Counter[DropReason] = Counter()
        self.drop_sources: dict[DropReason, Address] = {}  # of the latest, not told yet
        self._drops_told: Counter[DropReason] = Counter()
        self._fault_told_at = -math.inf
        self.delivered = 0
        self.changes = 0
        self.stopped: str | None = None
        self.is_paused = False  # our own application is behind: nothing is asked for meanwhile

    # --- messages -------------------------------------------------------------------------------

    def hear(self, link: Link, plaintext: bytes | None, now: float) -> None:
        """A packet of `link` opened; `plaintext` is the message that it carried or completed."""
        effects = self._machines.membership.heard(link.peer_id, now, link.address)
        if effects:
            self.perform(effects, now)
        if plaintext is None:
            if link.has_grown:
                self._machines.antientropy.arriving(link.peer_id, now)
                self._machines.dissemination.pulls.arriving(link.peer_id, now)
            return
        self.route(codec.decode_message(plaintext), link, now)

    def hear_briefly(self, link: Link, plaintext: bytes | None, now: float) -> None:
        """The same of a short session, on which only so much may be said. Raises Refused."""
        if plaintext is None:
            if link.has_grown:
                self._machines.antientropy.arriving(link.peer_id, now)
            return
        message = codec.decode_message(plaintext)
        if isinstance(message, Close):
            self._shorts.close(link.peer_id, None, now)
        elif isinstance(message, BRIEF):
            self.route(message, link, now)
        else:
            raise Refused(DropReason.UNEXPECTED)

    def route(self, message: OverlayMessage | Frame, link: Link, now: float) -> None:
        """Let the machine that it is for hear a message, and charge its sender what that cost."""
        before = self._machines.work
        self._route(message, link, now)
        cost = self._machines.work - before
        if cost and not isinstance(message, Repair):  # which we asked for
            self.charge_work(link.peer_id, cost, now)

    def _route(self, message: OverlayMessage | Frame, link: Link, now: float) -> None:
        sender, machines = link.peer_id, self._machines
        match message:
            case Rumors() | Ids() | Offer() | Announce() | Subscribe() | Graft() | Prune():
                self.perform(machines.dissemination.handle(message, sender, now), now)
            case Heartbeat():
                self.perform(machines.membership.handle(message, sender, now), now)
                self.perform(machines.antientropy.handle(message, sender, now), now)
            case Records() | Ping() | PingFor() | Ack() | Opinions() | Roll():
                self.perform(machines.membership.handle(message, sender, now), now)
            case Want():
                machines.dissemination.asked(message)
                self.perform(machines.antientropy.handle(message, sender, now), now)
            case Digest() | InSync() | Vector() | Repair():
                self.perform(machines.antientropy.handle(message, sender, now), now)
            case Receipts() | ReceiptsTaken():
                self.perform(machines.tracing.handle(message, sender, now), now)
            case Private(sequence, payload):
                message_id = MessageId(sender, link.epoch, sequence, private=True)
                self.delivered += 1
                self.events.append(
                    MessageReceived(Message(message_id, payload, 1, Via.EAGER, now, private=True))
                )
            case Pause(duration_ms):
                self._links.outflow.pause(sender, duration_ms / 1000, now)
                self._links.touch(link)
            case Close(reason, records):
                words = (
                    "left" if reason is CloseReason.LEAVING else f"closed: {reason.name.lower()}"
                )
                self.unlink(sender, words, reason, tell=False, now=now)
                self.perform(machines.membership.let_go(records, sender, now), now)
            case Empty() | Ask() | Near() | Short():
                pass
            case _:
                assert_never(message)

    # --- effects --------------------------------------------------------------------------------

    def perform(self, effects: list[Effect], now: float) -> None:
        for effect in effects:
            try:
                self._perform(effect, now)
            except Exception as fault:  # noqa: BLE001  of this effect alone: the others are performed
                self.contain(fault, self._link_concerned(effect), now)

    def _perform(self, effect: Effect, now: float) -> None:
        match effect:
            case Deliver(messages):
                self._deliver(messages)
            case Emit(event):
                self.events.append(event)
                if isinstance(event, AntiEntropyRound) and event.round.outcome in AGREED:
                    self._links.untaken.agreed(event.round.started_at)
            case Send():
                self.send_all(effect, now)
            case Dial():
                self._dial(effect, now)
            case Drop(peer, reason, words, others):
                self.unlink(peer, words, reason, tell=True, now=now, others=others)
            case Moved(peer, previous, words):
                self._tell_moved(peer, previous, words, now)
            case Learn(record):
                if record.peer_id in self._links:
                    link = self._links[record.peer_id]
                    link.learn(record, now)
                    self._links.touch(link)
            case Blame() | Penalize() | Credit():
                self._hold_account(effect, now)
            case Reopen(epoch):
                self._reopen(epoch, now)
            case Stop(words):
                self.stopped = words
            case _:
                assert_never(effect)

    def _link_concerned(self, effect: Effect) -> Link | None:
        """The link with the one peer that `effect` is about; None: there is none, or no such peer."""
        match effect:
            case (
                Drop(peer)
                | Moved(peer)
                | Blame(peer)
                | Penalize(peer)
                | Credit(peer)
                | Send((peer,))
            ):
                return self._links.get(peer) or self._shorts.get(peer)
            case Learn(record):
                return self._links.get(record.peer_id)
            case _:
                return None

    # --- faults ---------------------------------------------------------------------------------

    def contain(self, error: Exception, link: Link | None, now: float) -> None:
        """An error of this program while it served `link` (None: no link in particular): count it, tell
        of it, and end that link, whatever state it is in. Never raises."""
        self.drops[DropReason.FAULT] += 1
        problem = describe(error)
        if link is not None or now - self._fault_told_at >= FAULTS_TOLD_EVERY_S:
            self._fault_told_at = now
            self.events.append(FaultContained(None if link is None else link.peer_id, problem))
        if link is None:
            return
        peer_id, was_link = link.peer_id, self._links.is_link(link)
        try:
            if was_link:
                self._links.cut(peer_id, CloseReason.MISCONDUCT, tell=True, now=now)
            elif self._shorts.get(peer_id) is link:
                self._shorts.close(peer_id, CloseReason.MISCONDUCT, now)
            else:
                self._links.abandon(link)
        except Exception:  # noqa: BLE001  it is in no state to be told anything
            self._links.abandon(link)
            self._shorts.abandon(link)
        if was_link:
            self._unlinked(peer_id, f"fault: {problem}", CloseReason.MISCONDUCT, now)
        # Who causes one fault after the other is kept out for a while.
        with contextlib.suppress(Exception):
            self.penalize(peer_id, Offense.PROTOCOL_VIOLATION, 1, now)

    def contain_all(self, now: float) -> bool:
        """Contain what links met since the last call; whether there was anything."""
        faults, self._links.faults = self._links.faults, []
        for link, error in faults:
            self.contain(error, link, now)
        return bool(faults)

    def _deliver(self, messages: tuple[Message, ...]) -> None:
        """Tell the application of messages of one rumor."""
        if messages and messages[0].origin != self._our_id:
            self.delivered += len(messages)
            self.events += map(MessageReceived, messages)
        # else said in a second that a crash forgot: nothing new to us

    def send_all(self, send: Send, now: float) -> int:
        """Queue a message; for how many peers there was room for it."""
        if self.is_paused and isinstance(send.message, Want):
            return 0  # a later round asks for what is still missed
        links = [self._links[peer_id] for peer_id in send.peers if peer_id in self._links]
        if isinstance(send.message, Rumors):
            return self._links.push(send.message, links, now)
        if isinstance(send.message, Repair):
            plaintext = codec.encode_repair(send.message, self._our_id)
        else:
            plaintext = codec.encode_message(send.message)
        if len(links) < len(send.peers) and isinstance(send.message, BRIEF):
            for peer_id in send.peers:
                if peer_id not in self._links:
                    self._reply_briefly(peer_id, plaintext, now)
        for link in links:
            try:
                self._queue(link, plaintext, now)
            except Exception as fault:  # noqa: BLE001
                self.contain(fault, link, now)
        return len(links)

    def _queue(self, link: Link, plaintext: bytes | codec.Spliced, now: float) -> None:
        if _is_question(plaintext):
            link.allowance.expect_repairs(REPLY_DATAGRAMS)
        self._links.queue(link, plaintext, now)

    def _reply_briefly(self, peer_id: PeerId, plaintext: bytes | codec.Spliced, now: float) -> None:
        """To a peer without a link: on the short session that it has. A question opens one."""
        link = self._shorts.get(peer_id)
        if isinstance(plaintext, bytes) and plaintext[0] == Kind.WANT:
            self.say_briefly(peer_id, Waiting(plaintext, None), now)
        elif link is not None:
            self._queue(link, plaintext, now)

    def _dial(self, dial: Dial, now: float) -> None:
        if dial.expected is not None and self._links.accounts.refuses(dial.expected, now):
            self.dial_failed(dial.address, dial.expected, DropReason.MISCONDUCT, now)
        elif self._handshakes.has_room:
            record = self._machines.membership.record
            self._handshakes.begin(
                dial.address,
                dial.expected,
                record,
                now,
                is_asking=dial.is_asking,
                instead=dial.instead,
                nearer_than_s=dial.nearer_than_s,
                hellos=dial.hellos,
            )
        else:
            self.dial_failed(dial.address, dial.expected, None, now)

    def end_dial(self, session_id: bytes, why: DropReason | str | None, now: float) -> None:
        """A dial of ours led to nothing. `why`: how it was answered, or in words what kept it from being
        sent; None: no answer."""
        dial = self._handshakes.end(session_id)
        if dial is None:
            return
        if dial.is_short and dial.expected is not None:
            self.gave_up_briefly(dial.expected)
        elif dial.instead is not None and why is None:
            self._machines.membership.dialling.looked(dial.address, dial.expected, dial.rtt_s, now)
        else:
            self.dial_failed(dial.address, dial.expected, why, now)
            if dial.expected is not None:
                self.no_link_came(dial.expected, now)

    def dial_failed(
        self, address: Address, expected: PeerId | None, why: DropReason | str | None, now: float
    ) -> None:
        self.perform(self._machines.membership.dial_failed(address, expected, why, now), now)

    def unlink(
        self,
        peer_id: PeerId,
        words: str,
        reason: CloseReason | None,
        *,
        tell: bool,
        now: float,
        others: tuple[Record, ...] = (),
    ) -> None:
        """End the link with `peer_id`, where there is one, and let everybody here know; `others` are
        whom it may try instead."""
        if not self._links.cut(peer_id, reason, tell=tell, now=now, others=others):
            return
        self._unlinked(peer_id, words, reason, now)

    def _unlinked(
        self, peer_id: PeerId, words: str, reason: CloseReason | None, now: float
    ) -> None:
        """Let every machine know that the link with `peer_id` has ended."""
        machines = self._machines
        self.changes += 1
        tells: tuple[Callable[[], list[Effect]], ...] = (
            lambda: machines.antientropy.unlinked(peer_id, now),
            lambda: machines.membership.unlinked(peer_id, words, reason, now),
            lambda: machines.dissemination.unlinked(peer_id, now),
        )
        for tell in tells:
            try:
                effects = tell()
            except Exception as fault:  # noqa: BLE001  the others hear of it nevertheless
                self.contain(fault, None, now)
            else:
                self.perform(effects, now)

    def _tell_moved(
        self, peer_id: PeerId, previous: PeerState | None, words: str, now: float
    ) -> None:
        peer = self._machines.peers.get(peer_id)
        if peer is not None:
            timeout_s = self.config.peer_timeout
            info = peer_info(peer, self._links, self._machines, timeout_s, now)
            self.events.append(PeerStateChanged(info, previous, words))

    def _hold_account(self, effect: Blame | Penalize | Credit, now: float) -> None:
        match effect:
            case Blame(peer, refusal):
                self.drops[refusal] += 1
                if refusal is DropReason.BAD_SIGNATURE:
                    self.penalize(peer, Offense.BAD_SIGNATURE, 1, now)
            case Penalize(peer, offense, count):
                self.penalize(peer, offense, count, now)
            case Credit(peer, count):
                self._links.accounts.credit(peer, count, now)
            case _:
                assert_never(effect)

    def penalize(self, peer_id: PeerId, offense: Offense, count: float, now: float) -> None:
        """Count an offense of a peer, and do what that comes to."""
        self._judged(self._links.accounts.penalize(peer_id, offense, count, now), now)

    def charge_work(self, peer_id: PeerId, units: int, now: float) -> None:
        """What a peer said cost us so many units of work."""
        self._judged(self._links.accounts.charge_work(peer_id, units, now), now)

    def _judged(self, change: StandingChanged | None, now: float) -> None:
        if change is None:
            return
        self.events.append(change)
        if change.standing is Standing.REFUSED:
            words = f"misconduct: {change.reason}"
            self.unlink(change.peer, words, CloseReason.MISCONDUCT, tell=True, now=now)
            self._shorts.close(change.peer, CloseReason.MISCONDUCT, now)

    def _reopen(self, epoch: int, now: float) -> None:
        """Outrank a record of our identity that is not ours: a new epoch, new streams, new links."""
        self.close_bundle(now)
        self._voice.reopen(epoch + 1)
        self.changes += 1
        self._machines.membership.ourselves.reopen(epoch + 1)
        for peer_id in list(self._links):
            self.unlink(peer_id, "new epoch", CloseReason.SURPLUS, tell=True, now=now)
        for link in self._shorts.live():
            self._shorts.close(link.peer_id, CloseReason.SURPLUS, now)

    # --- short sessions -------------------------------------------------------------------------

    def say_briefly(self, peer_id: PeerId, waiting: Waiting, now: float) -> bool:
        """Say something to a member that is not linked, over a short session, which is opened first if
        need be; False: there is no room for one, or nobody knows where the member is."""
        link = self._shorts.fresh(peer_id, now)
        if link is not None:
            self._queue(link, waiting.plaintext, now)
            self._tell_sent(waiting, 1)
            return True
        is_opening = self._shorts.is_opening(peer_id)
        member = self._machines.membership.members.get(peer_id)
        dialling = self._machines.membership.dialling
        address = dialling.address_of(member) if member is not None else None
        if not is_opening:
            if address is None or not self._handshakes.has_room:
                return False
            if not self._shorts.make_room(peer_id, now):
                return False
            if not self._handshakes.is_dialling(peer_id):  # else what comes of that is awaited
                self._dial_briefly(address, peer_id, now)
        if not self._shorts.wait(peer_id, waiting):
            self._tell_sent(waiting, 0)
        return True

    def opened_briefly(self, link: Link, now: float) -> None:
        """A session with a peer is open: what waited for it goes."""
        for waiting in self._shorts.take_waiting(link.peer_id):
            self._queue(link, waiting.plaintext, now)
            self._tell_sent(waiting, 1)

    def no_link_came(self, peer_id: PeerId, now: float) -> None:
        """A dial for a link with a peer came to nothing: what waits for it may open a short session."""
        member = self._machines.membership.members.get(peer_id)
        if not self._shorts.is_opening(peer_id) or self._handshakes.is_dialling(peer_id):
            return
        dialling = self._machines.membership.dialling
        address = dialling.address_of(member) if member is not None else None
        if address is None or not self._handshakes.has_room:
            self.gave_up_briefly(peer_id)
            return
        self._dial_briefly(address, peer_id, now)

    def _dial_briefly(self, address: Address, peer_id: PeerId, now: float) -> None:
        record = self._machines.membership.record
        self._handshakes.begin(address, peer_id, record, now, is_short=True)

    def gave_up_briefly(self, peer_id: PeerId) -> None:
        """No short session came of a dial."""
        for waited in self._shorts.give_up(peer_id):
            self._tell_sent(waited, 0)

    def _tell_sent(self, waiting: Waiting, peers: int) -> None:
        if waiting.message is not None:
            self.events.append(MessageSent(waiting.message, peers))

    # --- what we say ----------------------------------------------------------------------------

    def close_bundle(self, now: float) -> None:
        """Sign what is in the bundle and let it go."""
        if messages := self._voice.close_bundle():
            self.say(messages, 0, now)

    def say(self, messages: list[Message], trace_share: int, now: float) -> None:
        """Sign messages of ours as one rumor and push it."""
        rumor = self._voice.sign(messages, trace_share)
        self._links.untaken.said((rumor.epoch, rumor.first), len(messages), now)
        peers = 0
        for effect in self._machines.dissemination.broadcast(rumor, now):
            if isinstance(effect, Send) and isinstance(effect.message, (Rumors, Offer, Announce)):
                peers += self.send_all(effect, now)
            else:
                self.perform([effect], now)
        self.events += [MessageSent(message, peers) for message in messages]

    # --- time -----------------------------------------------------------------------------------

    def restore(self, now: float) -> None:
        """Tell the application whose offenses have decayed."""
        self.events += self._links.accounts.restore(now)

    def tell_drops(self) -> None:
        """Tell the application what was refused since the last call."""
        for reason, count in self.drops.items():
            if count > self._drops_told[reason]:
                source = self.drop_sources.pop(reason, None)
                self.events.append(
                    DatagramDropped(reason, count - self._drops_told[reason], source)
                )
                self._drops_told[reason] = count


def _is_question(plaintext: bytes | codec.Spliced) -> bool:
    return isinstance(plaintext, bytes) and plaintext[0] == Kind.WANT
