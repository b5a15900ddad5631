"""Discovery by SRV records of the DNS (RFC 2782), with the package dnspython.

Invariants: targets are ordered by priority, and by weight at random; at most `MAX_TARGETS` are used; a name
is looked up again when its records expire, within `TTL_BOUNDS_S`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from grapevine_proto.ids import join_host_port
from grapevine_proto.runtime.discovery.source import missing_package

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

MAX_TARGETS: Final = 64
TTL_BOUNDS_S: Final = (5.0, 300.0)


class Target(NamedTuple):
    """An SRV record."""

    priority: int
    weight: int
    host: str
    port: int


class SrvDiscovery:
    """The targets of the SRV records of a name such as ``_grapevine._udp.example.org``.

    `resolver`: by default the one of this machine. `sleep` waits for a number of seconds. Raises ConfigError
    without dnspython.
    """

    def __init__(
        self,
        service: str,
        *,
        resolver: Resolver | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        try:
            import dns.asyncresolver
        except ImportError:
            raise missing_package("bootstrap_peers", f"srv+{service}", "dns") from None
        self.service = service
        self._resolver = resolver
        self._sleep = sleep
        self._new_resolver = dns.asyncresolver.Resolver
        self._look_again_at = 0.0
        self._rng = random.Random()

    @property
    def name(self) -> str:
        return f"srv+{self.service}"

    async def addresses(self) -> list[str]:
        import dns.resolver

        await self._sleep(self._look_again_at - asyncio.get_running_loop().time())
        if self._resolver is None:
            self._resolver = self._new_resolver()
        ttl_s = TTL_BOUNDS_S[0]
        targets: list[Target] = []
        try:
            answer: Any = await self._resolver.resolve(f"{self.service.rstrip('.')}.", "SRV")
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            pass
        else:
            ttl_s = min(max(float(answer.rrset.ttl), TTL_BOUNDS_S[0]), TTL_BOUNDS_S[1])
            targets = [
                Target(
                    each.priority, each.weight, each.target.to_text(omit_final_dot=True), each.port
                )
                for each in answer
            ]
        self._look_again_at = asyncio.get_running_loop().time() + ttl_s
        return [
            join_host_port(each.host, each.port)
            for each in order_targets(targets, self._rng)[:MAX_TARGETS]
        ]


def order_targets(targets: list[Target], rng: random.Random) -> list[Target]:
    """Returns `targets` without those that mean "no service", the lowest priority first; within one, by
    weighted random choice."""
    ordered: list[Target] = []
    usable = [each for each in targets if each.host and each.port]
    for priority in sorted({each.priority for each in usable}):
        group = [each for each in usable if each.priority == priority]
        while group:
            weights = [each.weight or 0.001 for each in group]  # RFC 2782: a very small chance
            (chosen,) = rng.choices(group, weights)
            group.remove(chosen)
            ordered.append(chosen)
    return ordered
