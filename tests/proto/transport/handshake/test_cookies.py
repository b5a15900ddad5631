"""Cookies and accepted Proofs."""

from __future__ import annotations

from grapevine_proto.errors import Dropped, DropReason
from grapevine_proto.ids import Address, PeerId
from grapevine_proto.transport.handshake.cookies import (
    COOKIE_ROTATION_S,
    PROOFS_PER_IDENTITY_LIMIT,
    Cookies,
)
from tests.proto.transport.ends import entropy_of

HERE = Address("192.0.2.1", 1000)
OWNER = PeerId(bytes(32))
THERE = Address("203.0.113.2", 1000)


def new_cookies() -> Cookies:
    return Cookies(entropy=entropy_of("cookies"), now=0.0)


def stale(cookies: Cookies, cookie: bytes, source: Address, *context: bytes) -> bool:
    try:
        cookies.check(cookie, source, *context)
    except Dropped as refused:
        return refused.reason is DropReason.STALE_COOKIE
    return False


def test_a_cookie_is_valid_for_its_address_and_context_only() -> None:
    cookies = new_cookies()
    cookie = cookies.make(HERE, b"hello", b"key")

    assert not stale(cookies, cookie, HERE, b"hello", b"key")
    assert stale(cookies, cookie, THERE, b"hello", b"key")
    assert stale(cookies, cookie, HERE._replace(port=1), b"hello", b"key")
    assert stale(cookies, cookie, HERE, b"hullo", b"key")
    assert stale(cookies, cookie, HERE, b"hello", b"yek")
    assert stale(cookies, bytes(32), HERE, b"hello", b"key")


def test_a_cookie_survives_one_rotation_and_not_two() -> None:
    cookies = new_cookies()
    cookie = cookies.make(HERE, b"hello")
    cookies.rotate(COOKIE_ROTATION_S - 0.001)
    assert cookies.check(cookie, HERE, b"hello") == 0
    cookies.rotate(COOKIE_ROTATION_S)
    assert cookies.check(cookie, HERE, b"hello") == 1
    cookies.rotate(2 * COOKIE_ROTATION_S)

    assert stale(cookies, cookie, HERE, b"hello")


def test_a_long_suspension_invalidates_both_secrets() -> None:
    cookies = new_cookies()
    cookie = cookies.make(HERE, b"hello")
    cookies.rotate(10 * COOKIE_ROTATION_S)

    assert stale(cookies, cookie, HERE, b"hello")


def test_an_accepted_proof_is_remembered_while_its_cookie_is_valid() -> None:
    cookies = new_cookies()
    cookies.record_accepted(0, b"proof", b"session", OWNER, 10)
    assert cookies.accepted_session(0, b"proof") == b"session"
    assert cookies.deadline == COOKIE_ROTATION_S
    cookies.rotate(COOKIE_ROTATION_S)
    assert cookies.accepted_session(1, b"proof") == b"session"
    assert len(cookies) == 1
    cookies.rotate(2 * COOKIE_ROTATION_S)

    assert len(cookies) == 0
    assert cookies.deadline == float("inf")


def test_beyond_the_limit_the_oldest_accepted_proof_is_evicted_and_its_quota_freed() -> None:
    cookies = new_cookies()
    for number in range(PROOFS_PER_IDENTITY_LIMIT):
        assert cookies.has_quota_for(OWNER)
        cookies.record_accepted(0, b"%d" % number, b"session", OWNER, 4096)
    assert not cookies.has_quota_for(OWNER)
    other = PeerId(bytes([1]) * 32)
    assert cookies.has_quota_for(other)
    cookies.record_accepted(0, b"another", b"session", other, PROOFS_PER_IDENTITY_LIMIT)
    assert (len(cookies), cookies.evicted) == (PROOFS_PER_IDENTITY_LIMIT, 1)
    assert cookies.accepted_session(0, b"0") is None
    assert cookies.has_quota_for(OWNER)
    cookies.rotate(COOKIE_ROTATION_S)
    cookies.rotate(2 * COOKIE_ROTATION_S)
    assert cookies._accepted_per_peer == {}


def test_a_cookie_is_made_with_the_current_secret_and_valid_until_the_second_rotation() -> None:
    cookies = new_cookies()
    first = cookies.make(HERE, b"x")
    assert cookies.check(first, HERE, b"x") == 0
    cookies.rotate(COOKIE_ROTATION_S)
    second = cookies.make(HERE, b"x")
    assert second != first
    assert (cookies.check(second, HERE, b"x"), cookies.check(first, HERE, b"x")) == (0, 1)
    cookies.rotate(2 * COOKIE_ROTATION_S)
    assert stale(cookies, first, HERE, b"x")
    assert cookies.check(second, HERE, b"x") == 1


def test_an_identity_has_64_accepted_proofs_however_many_were_evicted() -> None:
    cookies = new_cookies()
    for number in range(64):
        assert cookies.has_quota_for(OWNER)
        cookies.record_accepted(0, b"%d" % number, b"session", OWNER, 4096)
    assert not cookies.has_quota_for(OWNER)
    cookies.record_accepted(0, b"other", b"session", PeerId(bytes([1]) * 32), 64)
    cookies.record_accepted(0, b"64", b"session", OWNER, 4096)
    assert not cookies.has_quota_for(OWNER)


def test_a_cookie_is_valid_for_two_to_four_minutes() -> None:
    cookies = new_cookies()
    first = cookies.make(HERE, b"x")
    cookies.rotate(119.9)
    second = cookies.make(HERE, b"x")
    assert first == second
    for now in (120.0, 239.9):
        cookies.rotate(now)
        assert cookies.check(first, HERE, b"x") == 1
    cookies.rotate(240.0)
    assert stale(cookies, first, HERE, b"x")


def test_after_a_pause_of_less_than_two_periods_the_previous_cookies_are_valid() -> None:
    for late_s, is_stale in ((239.9, False), (240.0, True)):
        cookies = new_cookies()
        cookie = cookies.make(HERE, b"x")
        cookies.rotate(late_s)
        assert stale(cookies, cookie, HERE, b"x") is is_stale


def test_proofs_with_the_oldest_cookies_are_evicted_first() -> None:
    cookies = new_cookies()
    cookies.record_accepted(0, b"old", b"session", OWNER, 10)
    cookies.rotate(COOKIE_ROTATION_S)
    for proof, kept in (
        (b"one", [b"old", b"one"]),
        (b"two", [b"one", b"two"]),
        (b"three", [b"two", b"three"]),
    ):
        cookies.record_accepted(0, proof, b"session", OWNER, 2)
        found = [
            each
            for each in (b"old", b"one", b"two", b"three")
            if any(cookies.accepted_session(generation, each) for generation in (0, 1))
        ]
        assert found == kept


def test_after_a_long_pause_no_cookie_is_valid_however_many_secrets_there_were() -> None:
    cookies = new_cookies()
    cookies.rotate(COOKIE_ROTATION_S)
    cookie = cookies.make(HERE, b"x")
    cookies.rotate(3 * COOKIE_ROTATION_S + COOKIE_ROTATION_S)
    assert stale(cookies, cookie, HERE, b"x")
