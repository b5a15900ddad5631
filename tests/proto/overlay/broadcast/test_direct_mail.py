"""Direct mail, and auto, which mails while that is cheap."""

from __future__ import annotations

from grapevine_proto.overlay.broadcast.auto import DIRECT_MAIL_LIMIT_BYTES, Auto
from grapevine_proto.overlay.broadcast.direct_mail import DirectMail
from grapevine_proto.wire.messages import Graft, Prune, Subscribe
from tests.proto.overlay.builders import Surroundings, news, peer_id, record, said


def test_the_origin_mails_to_all_and_nobody_passes_it_on() -> None:
    place = Surroundings(*range(1, 50))
    mail = DirectMail(place.around)
    plan = mail.on_new_rumor(news(), 0.0)
    assert (list(plan.targets), plan.is_mail) == (list(place.around.linked), True)
    assert mail.on_new_rumor(news(7, sender=7, hops=1), 0.0).targets == ()


def test_with_a_member_out_of_reach_nothing_is_called_mailed_to_all() -> None:
    place = Surroundings(1, 2, members=(3,))
    plan = DirectMail(place.around).on_new_rumor(news(), 0.0)
    assert (len(plan.targets), plan.is_mail) == (2, False)


def auto(*linked: int, members: tuple[int, ...] = ()) -> tuple[Surroundings, Auto]:
    place = Surroundings(*linked, members=members)
    return place, Auto(place.config, place.around)


def test_auto_mails_what_is_small_while_all_are_linked() -> None:
    place, strategy = auto(*range(1, 11))
    assert strategy.on_new_rumor(news(size=DIRECT_MAIL_LIMIT_BYTES // 10), 0.0).is_mail
    assert not strategy.on_new_rumor(
        news(first=2, size=DIRECT_MAIL_LIMIT_BYTES // 10 + 1), 0.0
    ).is_mail
    place.members.ensure(record(30), 0.0)
    assert not strategy.on_new_rumor(news(first=3), 0.0).is_mail


def test_auto_passes_on_what_was_not_mailed_along_the_tree_and_nothing_else() -> None:
    _, strategy = auto(1, 2, 3)
    assert strategy.handle(Graft(None), peer_id(2), 0.0) == []
    told = news(9, sender=1, hops=1)
    assert list(strategy.on_new_rumor(told, 0.0).targets) == [peer_id(2)]
    assert strategy.on_new_rumor(told._replace(is_mailed=True), 0.0).targets == ()


def test_the_tree_of_auto_is_kept_all_the_same() -> None:
    place, strategy = auto(1, 2)
    assert strategy.start(0.0) == strategy.on_link_up(peer_id(2), 0.0) == []
    assert said(strategy.on_request_sent(peer_id(1), peer_id(9), 0.0)) == {
        peer_id(1): [Graft(None)]
    }
    for number in (1, 2):
        strategy.handle(Graft(None), peer_id(number), 0.0)
    assert strategy.handle(Subscribe(True), peer_id(2), 0.0) == []
    assert set(strategy.subscribers) == set(strategy.subscriptions) == {peer_id(1), peer_id(2)}
    assert said(strategy.on_duplicate(news(9).key, peer_id(2), 1.0)) == {peer_id(2): [Prune(None)]}
    place.unlink(1)
    assert strategy.on_link_down(peer_id(1), 1.0) == []
    assert strategy.subscribers == ()
    assert strategy.advance(2.0) == []
    assert strategy.deadline == float("inf")


def test_other_settings_reach_the_tree_as_well() -> None:
    place, strategy = auto(1, 2)
    assert strategy.on_link_up(place.link(3), 0.0) == []
    assert not strategy.subscribers
    strategy.reconfigure(place.config.replace(lazy_push=False), 0.0)
    strategy.on_link_up(place.link(4), 0.0)
    assert strategy.subscribers == (peer_id(4),)
