"""Errors survive pickling, process pools and task queues."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import grapevine_tui.cli.invitation
import grapevine_tui.control.client
import grapevine_tui.control.commands
import grapevine_tui.control.executor
import grapevine_tui.control.requests  # noqa: F401  their errors are subclasses too
from grapevine_proto.errors import ConfigError, GrapevineError, MessageTooLarge


def kinds() -> list[type[GrapevineError]]:
    found, left = [], [GrapevineError]
    while left:
        kind = left.pop()
        found.append(kind)
        left += kind.__subclasses__()
    return found


def made(kind: type[GrapevineError]) -> GrapevineError:
    if issubclass(kind, ConfigError):
        return kind("fanout", "it is odd")
    if issubclass(kind, MessageTooLarge):
        return kind(3, 2)
    return kind("what went wrong")


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_and_copying(kind: type[GrapevineError]) -> None:
    error = made(kind)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def fail() -> None:
    raise MessageTooLarge(3, 2)


def test_an_error_in_a_worker_process_reaches_the_caller() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(MessageTooLarge) as caught,
    ):
        pool.submit(fail).result(timeout=20)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (3, 2)
