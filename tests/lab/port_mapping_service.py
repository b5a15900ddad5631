"""What a router runs that maps ports at request, by PCP or NAT-PMP: it installs the mappings in nftables.

python -m tests.lab.port_mapping_service INSIDE OUTSIDE PROTOCOL; it ends with its standard input.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

from tests.proto.runtime.port_mapping.fake_gateway import FakeGateway

PORT = 5351
TABLE = "ip mapped"
CHAIN = "chain in { type nat hook prerouting priority -110;"


async def serve(inside: str, outside: str, protocol: str) -> None:
    gateway = FakeGateway(
        speaks_pcp=protocol == "pcp", speaks_nat_pmp=protocol == "nat-pmp", external_host=outside
    )

    def install(*_: object) -> None:
        rules = "\n".join(
            f"ip daddr {outside} udp dport {external} dnat to {host}:{port}"
            for external, (host, port, _) in gateway.mapped.items()
        )
        text = (
            f"table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{ {CHAIN}\n{rules}\n}}\n}}\n"
        )
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

    gateway.on_map = install
    await gateway.open(inside, PORT)
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
