"""Direct mail, and the automatic strategy, which mails while that is cheap."""

from __future__ import annotations

from grapevine_proto.overlay.broadcast.auto import DIRECT_MAIL_LIMIT_BYTES, Auto
from grapevine_proto.overlay.broadcast.direct_mail import DirectMail
from grapevine_proto.wire.messages import Graft, Prune, Subscribe
from tests.proto.overlay.builders import NodeTables, new_rumor, peer_id, record, sent_by_peer


def test_the_origin_mails_to_all_and_no_node_forwards() -> None:
    tables = NodeTables(*range(1, 50))
    tables.hear_heartbeat(1)
    mail = DirectMail(tables.near_peers)
    plan = mail.on_new_rumor(new_rumor(), 0.0)
    assert (list(plan.targets), plan.is_mail) == (list(tables.near_peers.linked), True)
    assert mail.on_new_rumor(new_rumor(7, sender=7, hops=1), 0.0).targets == ()


def test_with_an_unlinked_member_a_rumor_is_not_marked_as_mailed() -> None:
    tables = NodeTables(1, 2, members=(3,))
    plan = DirectMail(tables.near_peers).on_new_rumor(new_rumor(), 0.0)
    assert (len(plan.targets), plan.is_mail) == (2, False)


def auto(*linked: int, members: tuple[int, ...] = ()) -> tuple[NodeTables, Auto]:
    tables = NodeTables(*linked, members=members)
    tables.hear_heartbeat(linked[0])
    return tables, Auto(tables.context, tables.near_peers)


def test_a_peer_that_acknowledges_nothing_gets_no_mail() -> None:
    tables = NodeTables(1, 2)
    mail = DirectMail(tables.near_peers)
    tables.hear_heartbeat(1)
    tables.near_peers.on_answering_changed(peer_id(2), is_answering=False)
    assert not mail.on_new_rumor(new_rumor(), 0.0).is_mail
    tables.near_peers.on_answering_changed(peer_id(2), is_answering=True)
    assert mail.on_new_rumor(new_rumor(), 0.0).is_mail
    tables.near_peers.on_answering_changed(peer_id(9), is_answering=False)
    assert mail.on_new_rumor(new_rumor(), 0.0).is_mail, "it has no link"


def test_auto_mails_small_rumors_while_all_members_are_linked() -> None:
    tables, strategy = auto(*range(1, 11))
    assert strategy.on_new_rumor(new_rumor(size=DIRECT_MAIL_LIMIT_BYTES // 10), 0.0).is_mail
    assert not strategy.on_new_rumor(
        new_rumor(first=2, size=DIRECT_MAIL_LIMIT_BYTES // 10 + 1), 0.0
    ).is_mail
    tables.members.ensure(record(30), 0.0)
    assert not strategy.on_new_rumor(new_rumor(first=3), 0.0).is_mail


def test_auto_forwards_rumors_along_the_tree() -> None:
    _, strategy = auto(1, 2, 3)
    assert strategy.handle(Graft(None), peer_id(2), 0.0) == []
    relayed = new_rumor(9, sender=1, hops=1)
    assert list(strategy.on_new_rumor(relayed, 0.0).targets) == [peer_id(2)]


def test_auto_maintains_its_tree() -> None:
    tables, strategy = auto(1, 2)
    assert strategy.start(0.0) == strategy.on_link_up(peer_id(2), 0.0) == []
    assert sent_by_peer(strategy.on_request_sent(peer_id(1), peer_id(9), 0.0)) == {
        peer_id(1): [Graft(None)]
    }
    for number in (1, 2):
        strategy.handle(Graft(None), peer_id(number), 0.0)
    assert strategy.handle(Subscribe(True), peer_id(2), 0.0) == []
    assert set(strategy.subscribers) == set(strategy.subscriptions) == {peer_id(1), peer_id(2)}
    assert sent_by_peer(strategy.on_duplicate(new_rumor(9).key, peer_id(2), 1.0)) == {
        peer_id(2): [Prune(None)]
    }
    tables.unlink(1)
    assert strategy.on_link_down(peer_id(1), 1.0) == []
    assert strategy.subscribers == ()
    assert strategy.advance(2.0) == []
    assert strategy.deadline == float("inf")


def test_auto_applies_settings_to_its_tree() -> None:
    tables, strategy = auto(1, 2)
    assert strategy.on_link_up(tables.link(3), 0.0) == []
    assert not strategy.subscribers
    tables.reconfigure(lazy_push=False)
    strategy.on_link_up(tables.link(4), 0.0)
    assert strategy.subscribers == (peer_id(4),)
