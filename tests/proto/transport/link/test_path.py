"""The path to one peer: what it permits, and what a new path starts with."""

from __future__ import annotations

import pytest

from grapevine_proto.config.sections import CongestionConfig
from grapevine_proto.transport.link.path import Path

HOST = "192.0.2.1"


def path_to(host: str = HOST, rtt_s: float | None = 0.1, **congestion: int) -> Path:
    return Path(CongestionConfig(**congestion), host, rtt_s, 0.0)


def burst_bytes(path: Path) -> float:
    """How much may go at once: nothing has been sent at 0.0."""
    return -path.ready_at() * path.rate


def find_mtu(path: Path, *sizes: int) -> None:
    """Has probes of these sizes acknowledged."""
    for size_bytes in sizes:
        assert path.next_mtu_probe(0.0) == size_bytes
        path.mtu.on_probe_sent()
        path.mtu.on_probe_acked(size_bytes)
        path.on_ack(1, size_bytes, 0, 0.0, 0.1)


def test_a_new_path_carries_packets_of_the_base_size_and_has_nothing_to_probe_for() -> None:
    path = path_to()
    assert path.plaintext_limit_bytes == 1200 - 33
    assert path.window_bytes == 3 * path.rate * 0.125
    assert not path.should_probe_mtu
    assert not path.was_pacing_limited


def test_ten_base_packets_or_two_large_ones_go_at_once() -> None:
    path = path_to()
    assert burst_bytes(path) == pytest.approx(10 * 1200)
    find_mtu(path, 1452)
    assert burst_bytes(path) == pytest.approx(10 * 1200)
    find_mtu(path, 8952)
    assert burst_bytes(path) == pytest.approx(2 * 8952)


def test_at_a_high_rate_what_two_milliseconds_carry_goes_at_once() -> None:
    path = path_to(rtt_s=0.002, initial_packets=1000)
    assert burst_bytes(path) == pytest.approx(0.002 * path.rate, abs=1)
    assert burst_bytes(path) > 100_000


def test_what_goes_at_once_keeps_to_the_highest_rate() -> None:
    path = path_to(rtt_s=0.002, initial_packets=1000, max_rate=10_000_000)
    assert path.rate == 10_000_000
    assert burst_bytes(path) == pytest.approx(0.002 * 10_000_000)


def test_a_sent_packet_is_paid_for_at_the_rate() -> None:
    path = path_to()
    before = path.ready_at()
    path.spend(1200, 0.0)
    assert path.ready_at() == pytest.approx(before + 1200 / path.rate)


def test_a_larger_datagram_carries_more_and_is_no_reason_to_probe() -> None:
    path = path_to()
    find_mtu(path, 1452)
    assert path.plaintext_limit_bytes == 1452 - 33
    assert not path.should_probe_mtu
    path.request_mtu_probe()
    assert path.should_probe_mtu


def test_after_the_return_to_the_base_size_the_larger_one_is_probed_again() -> None:
    path = path_to()
    find_mtu(path, 1452)
    path.on_pto(1.0, is_first=False)
    assert (path.plaintext_limit_bytes, path.should_probe_mtu) == (1452 - 33, False)
    path.on_pto(2.0, is_first=True)
    assert (path.plaintext_limit_bytes, path.should_probe_mtu) == (1200 - 33, True)
    find_mtu(path, 1452)
    path.should_probe_mtu = False
    path.on_emsgsize(1452, 3.0)
    assert (path.plaintext_limit_bytes, path.should_probe_mtu) == (1200 - 33, True)


def test_a_path_asks_for_no_more_probes_once_the_search_has_ended() -> None:
    path = path_to()
    path.request_mtu_probe()
    find_mtu(path, 1452)
    assert path.next_mtu_probe(0.0) == 8952
    assert path.should_probe_mtu
    path.mtu.on_probe_sent()
    assert (path.next_mtu_probe(0.0), path.should_probe_mtu) == (0, True), "one is on its way"
    path.mtu.on_probe_acked(8952)
    assert (path.next_mtu_probe(0.0), path.should_probe_mtu) == (0, False)


def test_the_rtt_is_known_once_it_was_measured() -> None:
    path = path_to(rtt_s=None)
    assert (path.rtt_s, path.recent_rtt_s(0.0)) == (None, None)
    path.use_handshake_rtt(0.2)
    assert (path.rtt_s, path.recent_rtt_s(0.0)) == (0.2, None)
    assert path.window_bytes == pytest.approx(3 * path.rate * 0.25)
    path.rtt.on_sample(0.1, 1.0)
    path.on_rtt()
    assert (path.rtt_s, path.recent_rtt_s(1.0)) == (0.1, 0.1)
    assert path.window_bytes == pytest.approx(3 * path.rate * 0.125)


def test_a_heartbeat_measures_the_path_for_want_of_recent_data() -> None:
    path = path_to(rtt_s=None)
    assert path.on_heartbeat_rtt(0.1, 1.0)
    assert path.window_bytes == pytest.approx(3 * path.rate * 0.125)
    path.rtt.on_sample(0.2, 2.0)
    window_bytes = path.window_bytes
    assert not path.on_heartbeat_rtt(0.1, 3.0)
    assert path.window_bytes == window_bytes


def test_the_rate_limited_sending_until_the_next_ack() -> None:
    path = path_to()
    rate = path.rate
    path.on_ack(1, 1200, 0, 0.5, 1.0)
    assert path.rate == rate, "the application limited it"
    path.on_pacing_limited()
    assert path.was_pacing_limited
    path.on_ack(1, 1200, 0, 1.5, 2.0)
    assert path.rate == 2 * rate
    assert not path.was_pacing_limited


def test_a_path_to_another_host_inherits_nothing() -> None:
    path = path_to()
    find_mtu(path, 1452)
    path.rtt.on_sample(0.5, 1.0)
    path.spend(10**6, 1.0)
    path.reset("127.0.0.1", None, 2.0)
    assert (path.rtt_s, path.plaintext_limit_bytes) == (None, 1200 - 33)
    assert path.should_probe_mtu
    assert path.next_mtu_probe(2.0) == 8952, "as on loopback"
    assert path.ready_at() == pytest.approx(2.0 - 12_000 / path.rate)
