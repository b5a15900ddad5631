"""A service that maps ports of a router by PCP, NAT-PMP or UPnP: it installs the mappings in nftables.

python -m tests.lab.port_mapping_service INSIDE OUTSIDE PROTOCOL; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping

from tests.proto.runtime.port_mapping.fake_gateway import FakeGateway
from tests.proto.runtime.port_mapping.fake_upnp_router import FakeUpnpRouter

PORT = 5351
TABLE = "ip mapped"
CHAIN = "chain in { type nat hook prerouting priority -110;"


def install(outside: str, mapped: Mapping[int, tuple[str, int, int]]) -> None:
    """Makes the external ports lead to what they are `mapped` to: host, port and lifetime."""
    rules = "\n".join(
        f"ip daddr {outside} udp dport {external} dnat to {host}:{port}"
        for external, (host, port, _) in mapped.items()
    )
    text = f"table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{ {CHAIN}\n{rules}\n}}\n}}\n"
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


async def serve(inside: str, outside: str, protocol: str) -> None:
    if protocol == "upnp":
        router = FakeUpnpRouter(external=outside)
        router.on_map = lambda: install(outside, router.mapped)
        await router.open(inside)
        await router.answer_searches(inside)
    else:
        gateway = FakeGateway(
            speaks_pcp=protocol == "pcp",
            speaks_nat_pmp=protocol == "nat-pmp",
            external_host=outside,
        )
        gateway.on_map = lambda *_: install(outside, gateway.mapped)
        await gateway.open(inside, PORT)
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
