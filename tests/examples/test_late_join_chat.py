"""`late_join_chat.py`: four users over real sockets, and what those see who come late."""

from __future__ import annotations

from tests.examples.processes import Example, Start, free_ports

LINES = 20


def started(start: Start, ports: str, name: str) -> Example:
    process = start("late_join_chat.py", "cluster.key", ports, name)
    process.expect("listening on")
    return process


def messages(user: Example, name: str) -> list[str]:
    """Returns the lines of one user that another sees, up to the last."""
    while not user.seen[-1].endswith(f"{name}: line {LINES - 1}"):
        user.expect("")
    return [line.strip() for line in user.seen if f"{name}: line" in line]


def test_late_joiners_see_all_messages_in_order_and_the_subject(start: Start) -> None:
    ports = free_ports()
    ada, bob = started(start, ports, "ada"), started(start, ports, "bob")
    ada.type("/subject lunch")
    bob.expect("subject: lunch")
    for number in range(LINES):
        ada.type(f"line {number}")
    expected = [f"ada: line {number}" for number in range(LINES)]
    assert messages(bob, "ada") == expected
    ada.kill()
    eve = started(start, ports, "eve")
    assert messages(eve, "ada") == expected
    assert any(line == "subject: lunch" for line in eve.seen) or eve.expect("subject: lunch")
    bob.type("still here\x1b[2J")
    eve.expect("bob: still here?[2J")
    assert bob.leave() == 0
    dan = started(start, ports, "dan")
    assert messages(dan, "ada") == expected
    assert [eve.leave(), dan.leave()] == [0, 0]
