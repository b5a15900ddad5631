"""Network coordinates: positions from which the round-trip time of two members is estimated (Vivaldi with
height, Dabek et al. 2004).

The distance of two coordinates is the distance of their vectors plus both heights: the vector stands for
the core of the network, the height for the access link of one member. The adjustments correct what space
cannot express, such as paths that violate the triangle inequality.

Invariants:

- What `parse` returns is finite and within `MAX_RTT_S`, so no coordinate of another member leads arithmetic
  astray.
- Sums of floats are loops in a fixed order: the same samples give the same coordinate everywhere.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

DIMENSIONS: Final = 8
COORDINATE_BYTES: Final = 24
MAX_RTT_S: Final = 10.0  # a longer round trip says nothing of the path
MAX_ERROR: Final = 1.5
MIN_HEIGHT_S: Final = 10e-6
ERROR_STEPS: Final = 128  # of an encoded error, per 1
MAX_EXPONENT: Final = 9  # of the unit, 2 ** exponent us
INT16_MAX: Final = 32_767
LAYOUT: Final = struct.Struct(">B8hIhB")
"""Exponent of the unit, vector and adjustment in units, height in us, error in 1/128."""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """The position of one member, in seconds. `error` is the relative error that it expects of estimates
    from it, 0 to `MAX_ERROR`."""

    vector: tuple[float, ...] = (0.0,) * DIMENSIONS
    height_s: float = MIN_HEIGHT_S
    adjustment_s: float = 0.0
    error: float = MAX_ERROR

    def raw_distance_s(self, other: Coordinate) -> float:
        """The distance without adjustments."""
        return vector_distance(self.vector, other.vector) + self.height_s + other.height_s

    def distance_s(self, other: Coordinate) -> float:
        """The estimated round-trip time between two members, in seconds."""
        raw_s = self.raw_distance_s(other)
        adjusted_s = raw_s + self.adjustment_s + other.adjustment_s
        return adjusted_s if adjusted_s > 0.0 else raw_s

    def moved_s(self, before: Coordinate) -> float:
        """How far it is from what it was, in seconds."""
        moved_s = vector_distance(self.vector, before.vector)
        moved_s += abs(self.height_s - before.height_s)
        return moved_s + abs(self.adjustment_s - before.adjustment_s)

    def encode(self) -> bytes:
        """Returns its `COORDINATE_BYTES` bytes, in the finest unit in which it fits."""
        exponent = 0
        largest_us = max(abs(self.adjustment_s), *map(abs, self.vector)) * 1e6
        while largest_us > INT16_MAX << exponent and exponent < MAX_EXPONENT:
            exponent += 1
        per_s = 1e6 / (1 << exponent)
        steps = [_clamp(each * per_s, INT16_MAX) for each in (*self.vector, self.adjustment_s)]
        height_us = _clamp(self.height_s * 1e6, int(MAX_RTT_S * 1e6))
        error = _clamp(self.error * ERROR_STEPS, int(MAX_ERROR * ERROR_STEPS))
        return LAYOUT.pack(exponent, *steps[:-1], height_us, steps[-1], error)

    @classmethod
    def parse(cls, data: bytes) -> Coordinate:
        """Returns the coordinate in `data`. Raises ValueError if it is none or out of range."""
        if len(data) != COORDINATE_BYTES:
            raise ValueError("not a coordinate")
        exponent, *steps, height_us, adjustment, error = LAYOUT.unpack(data)
        if exponent > MAX_EXPONENT or error > MAX_ERROR * ERROR_STEPS:
            raise ValueError("coordinate out of range")
        unit_s = (1 << exponent) / 1e6
        parts = [each * unit_s for each in (*steps, adjustment)]
        height_s = height_us / 1e6
        if height_s > MAX_RTT_S or max(map(abs, parts)) > MAX_RTT_S:
            raise ValueError("coordinate out of range")
        return cls(tuple(parts[:-1]), max(height_s, MIN_HEIGHT_S), parts[-1], error / ERROR_STEPS)

    def to_dict(self) -> dict[str, object]:
        """Returns its fields for JSON, in milliseconds."""
        return {
            "vector_ms": [round(each * 1000, 3) for each in self.vector],
            "height_ms": round(self.height_s * 1000, 3),
            "adjustment_ms": round(self.adjustment_s * 1000, 3),
            "error": round(self.error, 3),
        }


class RttSource(Enum):
    """How a round-trip time is known."""

    MEASURED = "measured"
    ESTIMATED = "estimated"


NO_RTT: Final = {"rtt_ms": None, "rtt_error_ms": None, "rtt_source": None}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A round-trip time between two members. `error_s`: by how much it may be wrong, as far as is known."""

    seconds: float
    error_s: float
    source: RttSource

    @classmethod
    def between(cls, first: Coordinate, second: Coordinate) -> Estimate:
        """The estimate from two coordinates. Its error is the mean of what both expect."""
        seconds = min(first.distance_s(second), MAX_RTT_S)
        error_s = seconds * (first.error + second.error) / 2
        return cls(seconds, error_s, RttSource.ESTIMATED)

    def to_dict(self) -> dict[str, object]:
        """Returns its fields in JSON."""
        return {
            "rtt_ms": round(self.seconds * 1000, 3),
            "rtt_error_ms": round(self.error_s * 1000, 3),
            "rtt_source": self.source.value,
        }


def vector_distance(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """The Euclidean distance of two vectors of the same length."""
    total = 0.0
    for a, b in zip(first, second, strict=True):
        total += (a - b) * (a - b)
    return math.sqrt(total)


def _clamp(value: float, limit: int) -> int:
    return max(-limit, min(limit, round(value)))
