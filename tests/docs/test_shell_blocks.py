"""Every shell block of the pages runs as written, on a host as the page describes it."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.docs.machines import Machine, Terminal, why_not
from tests.sources import ROOT

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

PAGES: Final = (
    "README.md",
    "CONTRIBUTING.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
)

# A node that runs here in place of the one that `ssh` reaches on the page.
CONTEXT_EU: Final = (
    "grapevine-tui --headless --state-dir /var/lib/grapevine",
    "mkdir -p ~/.config/grapevine",
    """printf '[eu]\\nstate_dir = "/var/lib/grapevine"\\n' > ~/.config/grapevine/contexts.toml""",
)
# Programs that run before a block, by its first words; the page says so in prose.
BESIDE: Final = {
    "printf '{": ("grapevine-tui --headless --name ada",),
    "grapevine-tui --headless --port 0 --peer": ("grapevine-tui --headless --name ada",),
    "grapevine-tui --port 0": ("grapevine-tui --headless --name ams-1",),
    "grapevine-tui --host 0.0.0.0 --key-file": ("grapevine-tui keygen office.key",),
    "grapevine-tui ctl peers": (
        "grapevine-tui --headless",
        "grapevine-tui --headless --port 9000",
        "grapevine-tui --headless --port 9001 --state-dir /var/lib/grapevine",
    ),
    "grapevine-tui ctl status": ("grapevine-tui --headless",),
    "grapevine-tui ctl state": ("grapevine-tui --headless",),
    "grapevine-tui ctl tags": ("grapevine-tui --headless",),
    "grapevine-tui ctl members --sort": ("grapevine-tui --headless",),
    "grapevine-tui ctl topology": ("grapevine-tui --headless",),
    "grapevine-tui keygen /etc/grapevine/keys/2.key": (
        "install -d -m 0700 /etc/grapevine/keys",
        "grapevine-tui keygen /etc/grapevine/keys/1.key",
    ),
    "grapevine-tui attach eu": CONTEXT_EU,
    "grapevine-tui attach --read-only eu": CONTEXT_EU,
    "grapevine-tui fleet": CONTEXT_EU,
    "grapevine-tui attach": ("grapevine-tui --headless --state-dir /var/lib/grapevine",),
}
# Blocks that are not run here, and why.
NOT_HERE: Final = {
    "python3 -m venv .venv && .venv/bin/pip install -q '.[test]'": "this test runs by that line",
    "python3 -m venv .venv && .venv/bin/pip install -q -e": "installs what runs this test",
    "python -m pytest": "runs this test",
    "ruff format": "what .ci/run does",
    "podman build": "needs a container engine",
    "chgrp monitoring": "needs a group of the host; modes are checked in tests/tui/control/test_server.py",
    "grapevine-tui keygen cluster.key\nkubectl": "needs a cluster of Kubernetes",
    "python -m tests.": "takes minutes; its flags are checked below",
    "GRAPEVINE_BATCH_DELAY=0.6 python -m tests.": "as the line above",
    "grapevine-tui sim": "takes minutes; its flags are checked in test_docs",
}
PLAYED_BELOW: Final = (
    "grapevine-tui --host 0.0.0.0\ngrapevine-tui invite",
    "grapevine-tui join",
    "python3 -m venv /opt/grapevine",
    "/opt/grapevine/bin/",
    "scp ",
    "cat > /etc/grapevine",
)


class Block(NamedTuple):
    """The text of a fenced block and its place."""

    where: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Each command with its continuation lines. Installation is left out: CI does it before all tests."""
        whole = re.sub(r"\\\n\s*|(?<=\|)\n\s*", " ", self.text)
        lines = [line for line in whole.splitlines() if line.strip() and not line.startswith("#")]
        lines = [re.sub(r"^.*pip install [^&]*(?:&& |$)", "", line) for line in lines]
        return [line.replace(".venv/bin/", "") for line in lines if line]


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = (ROOT / page).read_text()
        for match in re.finditer(
            r"^( *)```(?:sh|bash)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL
        ):
            line = text[: match.start()].count("\n") + 1
            body = re.sub(f"^{match[1]}", "", match[2], flags=re.MULTILINE).strip()
            yield Block(f"{page}:{line}", body)


def block_of(page: str, begin: str) -> Block:
    found = [
        each for each in blocks() if each.where.startswith(page) and each.text.startswith(begin)
    ]
    assert len(found) == 1, (page, begin)
    return found[0]


TYPED: Final = [each for each in blocks() if not each.text.startswith((*NOT_HERE, *PLAYED_BELOW))]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    made = Network(tmp_path)
    yield made
    made.close()


class Network:
    """Hosts on one switch."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._switch: Machine | None = None
        self.machines: list[Machine] = []

    def machine(self, address: str = "") -> Machine:
        """Creates a host whose working directory is a clone of the repository."""
        made = Machine(self._directory / f"host-{len(self.machines)}", address)
        self.machines.append(made)
        for name in ("config", ".venv"):
            target = ROOT / name if name == "config" else Path(sys.prefix)
            (made.directory / name).symlink_to(target)
        if address:
            self._connect(made)
        return made

    def _connect(self, machine: Machine) -> None:
        if self._switch is None:
            self._switch = Machine(self._directory / "switch")
            self._switch.do("ip link add switch type bridge && ip link set switch up")
        port = f"port{len(self.machines)}"
        self._switch.do(
            f"ip link add {port} master switch type veth peer name eth0 netns {machine.pid}"
            f" && ip link set {port} up"
        )
        machine.do(f"ip address add {machine.address}/24 dev eth0 && ip link set eth0 up")

    def close(self) -> None:
        for each in (*self.machines, *([self._switch] if self._switch else [])):
            each.close()


def follow(machine: Machine, commands: list[str]) -> list[Terminal]:
    """Runs `commands` one after another, each in a new terminal. Returns those that still run."""
    running = []
    for command in commands:
        terminal = machine.type(command)
        if "--on-eof exit" in command:  # starts like a node, and ends by itself
            terminal.until(lambda ended=terminal: ended.code is not None)
        if "| jq" in command:  # hides the first line of the node
            terminal.until_shown("listening on")
            code = terminal.code
        else:
            code = terminal.until_up_or_ended()
        assert code in (0, None), f"{command}: exit code {code}\n{terminal.text}"
        if code is None:
            running.append(terminal)
    return running


@pytest.mark.parametrize("block", TYPED, ids=[each.where for each in TYPED])
def test_a_block_does_what_the_page_promises(network: Network, block: Block) -> None:
    if "| jq" in " ".join(block.commands) and shutil.which("jq") is None:
        pytest.skip("jq is not installed, and the page says that it needs it")
    machine = network.machine()
    beside = next((each for begin, each in BESIDE.items() if block.text.startswith(begin)), ())
    running = follow(machine, [*beside, *block.commands])
    for terminal in reversed(running):
        assert terminal.end() == 0, f"{terminal.command}\n{terminal.text}"


def test_an_invitation_adds_a_second_machine(network: Network) -> None:
    first, second = network.machine("192.0.2.10"), network.machine("192.0.2.11")
    node, invite = block_of(
        "docs/how-to/add-a-machine.md", "grapevine-tui --host 0.0.0.0\n"
    ).commands
    join, start = block_of("docs/how-to/add-a-machine.md", "grapevine-tui join").commands
    follow(first, [node])
    line = first.do(invite).strip()
    joining = second.type(join)
    joining.until_shown("(?i)invitation")
    joining.type(line + "\r")
    joining.until(lambda: joining.code is not None)
    assert joining.code == 0, joining.text
    assert line not in joining.text  # it contains the key
    follow(second, [start])
    second_sees = until_members(second, "grapevine-tui ctl members --json", 1)
    assert second_sees == 1


def test_three_hosts_make_one_cluster_by_the_lines_for_a_service(network: Network) -> None:
    pages = "docs/how-to/deploy-as-a-service.md"
    install = block_of(pages, "python3 -m venv /opt/grapevine").commands
    key = block_of(pages, "/opt/grapevine/bin/grapevine-tui keygen").commands
    copy = block_of(pages, "scp ").text
    start = block_of(pages, "cat > /etc/grapevine/node.toml").text
    status_command, attach = block_of(pages, "/opt/grapevine/bin/grapevine-tui ctl").commands
    hosts = [network.machine(f"192.0.2.{number}") for number in (10, 11, 12)]
    for host in hosts:
        host.do(f"mkdir -p /opt/grapevine && ln -s {sys.prefix}/bin /opt/grapevine/bin")
        follow(host, install)
        if host is hosts[0]:
            follow(host, key)
        else:
            _, _, source, target = shlex.split(copy)
            machine, _, path = source.partition(":")
            assert machine == f"root@{hosts[0].address}"
            text = hosts[0].do(f"cat {path}").strip()
            host.do(f"umask 077 && echo {text} > {target}/{Path(path).name}")
        config, systemctl = start.split("\nsystemctl ")
        host.do(config)
        assert systemctl == "enable --now grapevine"
        follow(host, [command_of_unit(host)])
    for host in hosts:
        assert until_members(host, f"{status_command} --json", 2) == 2
    (shown,) = follow(hosts[0], [attach])
    assert shown.end() == 0


def command_of_unit(host: Machine) -> str:
    """Returns the command that systemd runs for the installed unit, with the variables that it sets and the
    directories that it creates. The sandbox is not emulated."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign,assignment]
    unit.read_string(host.do("cat /etc/systemd/system/grapevine.service"))
    service = unit["Service"]
    name, _, source = service["LoadCredential"].partition(":")
    host.do("install -d /run/credentials")
    host.do(
        f'for key in {source}/*; do install -m 0400 "$key" /run/credentials/{name}_$(basename "$key"); done'
    )
    host.do(f"install -d -m 0700 /var/lib/{service['StateDirectory']}")
    return (
        f"CREDENTIALS_DIRECTORY=/run/credentials {service['Environment'].replace('%S', '/var/lib')}"
        f" {service['ExecStart']} < /dev/null"
    )


def until_members(host: Machine, status_command: str, count: int) -> int:
    """Waits until `count` members are up. Returns the number that are."""
    loop = host.type(
        f'for each in $(seq 100); do found=$({status_command} | grep -o \'"status": *"up"\' | wc -l);'
        f' [ "$found" -ge {count} ] && break; sleep 0.2; done; echo "found $found."'
    )
    return int(re.findall(r"\d+", loop.until_shown(r"found \d+\."))[0])


BENCHMARKS: Final = sorted(
    {
        command
        for block in blocks()
        if block.text.startswith("python -m tests.")
        for command in block.commands
    }
)


@pytest.mark.parametrize("command", BENCHMARKS)
def test_a_long_command_has_the_flags_that_the_page_gives_it(command: str) -> None:
    arguments = shlex.split(command, comments=True)
    shown = subprocess.run(
        [sys.executable, *arguments[1:3], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [
        argument
        for argument in arguments
        if argument.startswith("--") and argument not in shown.stdout
    ] == []
