"""Fixtures of the scenarios."""

from tests.tui.conftest import bench

__all__ = ["bench"]
