"""Each file in examples/ runs as its first lines say: as processes, with real sockets."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.processes import ANY, EXAMPLES, Start
from tests.tui.runs import environ_of


def test_a_simple_node_receives_what_is_typed_at_another(start: Start) -> None:
    ada = start("simple_node.py", "cluster.key", ANY)
    bob = start("simple_node.py", "cluster.key", ANY, ada.address())
    ada.expect("is connected")
    bob.type("hello")
    assert ada.expect("hello").endswith("(1 hops): b'hello'")
    assert bob.leave() == 0
    ada.expect("is disconnected (left)")
    assert ada.leave() == 0


def test_in_a_one_process_cluster_every_node_receives_a_message_once(start: Start) -> None:
    cluster = start("multi_node_cluster.py", "6")
    cluster.expect("delivered to 5 of 5, once each")
    assert cluster.leave() == 0
    assert sum("after" in line for line in cluster.seen) == 5


def test_a_config_is_rejected_kept_and_changed_as_its_example_describes(start: Start) -> None:
    example = start("custom_config.py")
    example.expect("rejected: fanout: must be between")
    example.expect("written and read again: equal")
    example.expect("after a restart: cluster")
    assert example.leave() == 0


def test_chat_users_broadcast_send_direct_messages_and_see_members_leave(start: Start) -> None:
    ada = start("chat.py", "chat.key", ANY, "--name", "ada")
    address = ada.address()
    bob = start("chat.py", "chat.key", ANY, address, "--name", "bob")
    eve = start("chat.py", "chat.key", ANY, address, "--name", "eve\x1b[2J")
    ada.expect_each("* bob is up", "* eve?[2J is up")
    eve.expect("* bob is up")
    eve.type("hello all")
    assert ada.expect("hello all") == "eve?[2J: hello all"
    bob.expect("hello all")
    ada.type("/to bob only you")
    assert bob.expect("only you") == "ada (to you): only you"
    ada.type("/to carol who")
    ada.expect("* 0 peers are named carol")
    assert bob.leave() == 0
    ada.expect("* bob is left")
    assert eve.leave() == 0
    assert not any("only you" in line for line in eve.seen)


def three_free_ports() -> int:
    """Returns the first of three consecutive ports that are free for UDP and TCP."""
    for first in range(9220, 9290, 3):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + 3):
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        stack.enter_context(socket.socket(socket.AF_INET, kind)).bind(
                            ("127.0.0.1", port)
                        )
            except OSError:
                continue
            return first
    raise AssertionError("no three free ports in a row")


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("seq")), reason="the script needs curl and seq"
)
def test_three_nodes_in_a_shell_script_from_the_first_key_to_the_last_word(tmp_path: Path) -> None:
    environ = os.environ | environ_of(tmp_path) | {"TMPDIR": str(tmp_path)}
    environ["GRAPEVINE"] = f"{sys.executable} -m grapevine_tui"
    program = subprocess.Popen(
        ["sh", str(EXAMPLES / "three_nodes.sh"), str(three_free_ports())],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its nodes hold its streams open, so they are killed with it
    )
    try:
        stdout, stderr = program.communicate(timeout=150)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)
        stdout, stderr = program.communicate()
    assert program.returncode == 0, stderr
    assert stderr.count("reloaded") == 9, "three nodes, three rounds"
    lines = stdout.splitlines()
    assert any(line.startswith("node-2") and " down " in line for line in lines)
    assert "1 of 1 members have it" in lines
    assert 'grapevine_members{status="down"} 1.0' in lines
    assert lines[-3:-1] == ["the node has left the cluster and stopped"] * 2
    assert lines[-1] == "10", "nine during the rotation and the trace, each once"
