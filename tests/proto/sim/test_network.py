"""Network model: each impairment has its documented effect and rate."""

from __future__ import annotations

import pytest

from grapevine_proto.sim.network import Network, NetworkModel

DATAGRAM = bytes(range(64))
MANY = 20_000


def fraction(network: Network, copies: int) -> float:
    """Returns the fraction of datagrams of which `copies` arrive."""
    wire = NetworkModel(network, "seed")
    return sum(len(wire.transmit(0, 1, DATAGRAM)) == copies for _ in range(MANY)) / MANY


def test_loss_and_duplication_occur_at_their_rates() -> None:
    assert fraction(Network(), 1) == 1
    assert fraction(Network(loss=0.1), 0) == pytest.approx(0.1, abs=0.01)
    assert fraction(Network(duplication=0.2), 2) == pytest.approx(0.2, abs=0.01)
    assert fraction(Network(loss=1.0), 0) == 1


def test_latency_stays_in_its_range_and_differs_per_datagram() -> None:
    wire = NetworkModel(Network(latency=(0.010, 0.050)), "seed")
    delays = [wire.transmit(0, 1, DATAGRAM)[0][0] for _ in range(1000)]
    assert 0.010 <= min(delays) < 0.012
    assert 0.048 < max(delays) <= 0.050


def test_a_latency_per_pair_is_kept_in_both_directions() -> None:
    wire = NetworkModel(Network(per_pair=True), "seed")
    there = [wire.transmit(0, 1, DATAGRAM)[0][0] for _ in range(10)]
    back = [wire.transmit(1, 0, DATAGRAM)[0][0] for _ in range(10)]
    assert len({*there, *back}) == 1
    assert wire.transmit(0, 2, DATAGRAM)[0][0] != there[0]


def test_a_latency_per_pair_does_not_depend_on_the_first_sender() -> None:
    one, other = (NetworkModel(Network(per_pair=True), "seed") for _ in range(2))
    other.transmit(3, 4, DATAGRAM)
    assert one.transmit(0, 1, DATAGRAM) == other.transmit(0, 1, DATAGRAM)


def test_zones_have_a_latency_inside_and_one_between() -> None:
    wire = NetworkModel(
        Network(latency=(0.001, 0.002), latency_between_zones=(0.080, 0.090)), "seed"
    )
    for number, zone in enumerate(("here", "there", "there")):
        wire.set_zone(number, zone)
    inside = [wire.transmit(1, 2, DATAGRAM)[0][0] for _ in range(100)]
    between = [wire.transmit(0, 1, DATAGRAM)[0][0] for _ in range(100)]
    nowhere = [wire.transmit(8, 9, DATAGRAM)[0][0] for _ in range(100)]
    assert all(0.001 <= each <= 0.002 for each in inside + nowhere)
    assert all(0.080 <= each <= 0.090 for each in between)
    assert wire.crosses_zones(0, 1)
    assert not wire.crosses_zones(1, 2)


def test_zones_make_no_difference_without_a_latency_between_them() -> None:
    wire = NetworkModel(Network(latency=(0.001, 0.001)), "seed")
    wire.set_zone(0, "here")
    wire.set_zone(1, "there")
    assert wire.transmit(0, 1, DATAGRAM)[0][0] == 0.001


def test_reordering_delays_some_datagrams() -> None:
    wire = NetworkModel(Network(reorder=0.5), "seed")
    late = sum(wire.transmit(0, 1, DATAGRAM)[0][0] > 0.050 for _ in range(MANY)) / MANY
    assert 0.3 < late < 0.5
    assert max(wire.transmit(0, 1, DATAGRAM)[0][0] for _ in range(MANY)) <= 0.050 * 4


def test_corruption_flips_one_bit() -> None:
    wire = NetworkModel(Network(corruption=1.0), "seed")
    for _ in range(100):
        [(_, arrived)] = wire.transmit(0, 1, DATAGRAM)
        difference = int.from_bytes(arrived, "big") ^ int.from_bytes(DATAGRAM, "big")
        assert difference.bit_count() == 1


def test_a_block_stops_one_direction_until_it_is_removed() -> None:
    wire = NetworkModel(Network(), "seed")
    wire.block({0, 1}, {2})
    assert wire.transmit(0, 2, DATAGRAM) == []
    assert wire.transmit(1, 2, DATAGRAM) == []
    assert wire.transmit(2, 0, DATAGRAM) != []
    assert wire.transmit(0, 1, DATAGRAM) != []
    wire.heal()
    assert wire.transmit(0, 2, DATAGRAM) != []


def test_the_same_seed_gives_the_same_network() -> None:
    network = Network(loss=0.1, duplication=0.1, reorder=0.1, corruption=0.1)
    one, other, third = (NetworkModel(network, seed) for seed in ("a", "a", "b"))
    runs = [[wire.transmit(0, 1, DATAGRAM) for _ in range(100)] for wire in (one, other, third)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 1.5},
        {"corruption": -0.1},
        {"latency": (0.2, 0.1)},
        {"latency": (-1, 1)},
        {"latency_between_zones": (0.2, 0.1)},
    ],
)
def test_an_invalid_network_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Network(**wrong)  # type: ignore[arg-type]


def test_two_zones_have_the_latency_between_them_in_either_direction() -> None:
    network = Network(
        latency=(0.001, 0.002),
        latency_between_zones=(0.080, 0.090),
        latency_by_zones={("here", "far"): (0.2, 0.3)},
    )
    wire = NetworkModel(network, "seed")
    for number, zone in enumerate(("here", "there", "far")):
        wire.set_zone(number, zone)
    for pair in ((0, 2), (2, 0)):
        assert 0.2 <= wire.transmit(*pair, DATAGRAM)[0][0] <= 0.3
        assert wire.mean_rtt_s(*pair) == pytest.approx(0.5)
    assert 0.080 <= wire.transmit(0, 1, DATAGRAM)[0][0] <= 0.090
    with pytest.raises(ValueError, match="latency_by_zones"):
        Network(latency_by_zones={("here", "far"): (0.3, 0.2)})


def test_a_node_loses_what_it_sends_and_receives_until_it_is_mended() -> None:
    wire = NetworkModel(Network(), "seed")
    wire.set_loss(1, 0.5)
    for pair in ((0, 1), (1, 0)):
        lost = sum(not wire.transmit(*pair, DATAGRAM) for _ in range(MANY))
        assert lost / MANY == pytest.approx(0.5, abs=0.02)
    assert all(wire.transmit(0, 2, DATAGRAM) for _ in range(100))
    wire.set_loss(1, 0)
    assert all(wire.transmit(0, 1, DATAGRAM) for _ in range(100))
    with pytest.raises(ValueError, match="loss"):
        wire.set_loss(1, 1.5)
