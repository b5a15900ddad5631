"""Fixtures of the documentation tests."""

from tests.tui.conftest import bench

__all__ = ["bench"]
