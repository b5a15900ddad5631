"""Keeps a port of the home router mapped to this node, if the settings ask for it (`port_mapping`).

Invariants:

- Nothing waits for it: a router that answers nothing, or anything else, costs a bounded time of this task
  and changes nothing. An address counts only if others can dial it.
- A mapping is renewed long before its lease ends, and ends with the node. Until the lease is over, silence
  of the router takes nothing back; a refusal does.
- One event per change: granted, lost, or refused for another reason than before.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from grapevine_proto.events import PortMappingChanged, PortMappingOutcome
from grapevine_proto.ids import Address
from grapevine_proto.runtime.port_mapping.gateway import (
    GatewayPort,
    Mapping,
    NoAnswer,
    default_gateway,
)
from grapevine_proto.runtime.port_mapping.packets import Refused

LEASE_S: Final = 3600  # asked for: what a node that crashes leaves behind ends within an hour
CHECK_INTERVAL_S: Final = 60.0  # one packet, by which a router that restarted maps the port again
MIN_INTERVAL_S: Final = 5.0  # whatever lease the router grants
RETRY_S: Final = 10.0  # while a mapping may still be there
BACKOFF_BOUNDS_S: Final = (30.0, 600.0)  # without one
REMOVE_TIMEOUT_S: Final = 0.25  # a node leaves within half a second

_SHARED: Final = ipaddress.IPv4Network("100.64.0.0/10")  # of Internet providers (RFC 6598)

logger = logging.getLogger("grapevine")


class RouterPort(Protocol):
    """A way to map a port: `GatewayPort` or `UpnpPort`. Both methods may raise NoAnswer, Refused, or anything
    of a package."""

    async def map(self, wanted: Address | None, lifetime_s: int) -> Mapping: ...

    async def remove(self, timeout_s: float) -> None: ...


class Router(Protocol):
    """The router of this machine's network."""

    async def find_gateway(self) -> Address | None:
        """Returns where the default gateway listens; None: there is none, or it is not known."""

    def ports(self, gateway: Address, own: Address) -> list[RouterPort]:
        """Returns the ways to have `own`, an address of this machine, mapped by the router at `gateway`."""


class HomeRouter:
    """A `Router` that is asked by PCP, NAT-PMP, and UPnP if its package is installed. `now`: monotonic
    seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    async def find_gateway(self) -> Address | None:
        return await default_gateway()

    def ports(self, gateway: Address, own: Address) -> list[RouterPort]:
        ports: list[RouterPort] = [GatewayPort(self._now, gateway, own)]
        with contextlib.suppress(ImportError):  # needs the extra nat
            from grapevine_proto.runtime.port_mapping.upnp import UpnpPort

            ports.append(UpnpPort(gateway.host, own))
        return ports


class PortMapper:
    """Maps the port of one node. `mapped` is the external address, `outcomes` counts events.

    Args:
        now: monotonic seconds.
        router: whom to ask.
        is_wanted: whether the settings ask for a mapping.
        own_addresses: the addresses of this machine at which the node listens, best first.
        apply: called with the external address, and with None once there is none any more.
        publish: emits an event.
    """

    def __init__(
        self,
        now: Callable[[], float],
        router: Router,
        is_wanted: Callable[[], bool],
        own_addresses: Callable[[], tuple[Address, ...]],
        apply: Callable[[Address | None], None],
        publish: Callable[[PortMappingChanged], None],
    ) -> None:
        self.outcomes: Counter[PortMappingOutcome] = Counter()
        self._now = now
        self._router = router
        self._is_wanted = is_wanted
        self._own_addresses = own_addresses
        self._apply = apply
        self._publish = publish
        self._wake = asyncio.Event()
        self._ends: tuple[Address, Address] | None = None  # the gateway and our address
        self._ports: list[RouterPort] = []  # ways to map, the one that worked first
        self._mapping: Mapping | None = None
        self._expires_at = -math.inf
        self._failures = 0
        self._problem = ""

    @property
    def mapped(self) -> Address | None:
        """The external address that leads here; None: there is none."""
        return None if self._mapping is None else self._mapping.address

    def check(self) -> None:
        """The settings or the addresses of this machine may have changed."""
        self._failures = 0
        self._wake.set()

    async def run(self) -> None:
        """Maps and renews until cancelled; then call `remove`."""
        while True:
            self._wake.clear()
            if self._is_wanted():
                wait_s = await self._refresh()
            else:
                await self.remove()
                self._end_mapping("port mapping is off")
                self._ends, self._problem, wait_s = None, "", math.inf
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if wait_s == math.inf else wait_s):
                    await self._wake.wait()

    async def remove(self) -> None:
        """Ends the mapping at the router, within `REMOVE_TIMEOUT_S`."""
        if self._mapping is None or not self._ports:
            return
        with contextlib.suppress(Exception):  # the lease ends anyway
            async with asyncio.timeout(REMOVE_TIMEOUT_S):
                await self._ports[0].remove(REMOVE_TIMEOUT_S)

    async def _refresh(self) -> float:
        """Asks for the mapping. Returns how long to wait, in seconds."""
        own = next((each for each in self._own_addresses() if _needs_mapping(each)), None)
        gateway = None if own is None else await self._router.find_gateway()
        if own is None or gateway is None:
            self._ends = None
            return self._on_failure("no private IPv4 address with a default gateway", is_final=True)
        if (gateway, own) != self._ends:
            self._end_mapping("another network")
            self._ends = gateway, own
            self._ports = self._router.ports(gateway, own)
        problems, is_final = [], False
        for port in tuple(self._ports):
            try:
                mapping = await self._map_by(port)
            except NoAnswer as error:
                problems.append(str(error))
            except Refused as error:
                problems.append(str(error))
                is_final = True
            except Exception as error:  # noqa: BLE001  of any package
                problems.append(type(error).__name__)  # its text may be what the router sent
            else:
                self._ports.remove(port)
                self._ports.insert(0, port)
                return self._on_mapping(mapping)
        return self._on_failure("; ".join(problems), is_final=is_final)

    async def _map_by(self, port: RouterPort) -> Mapping:
        """Raises what `RouterPort.map` does; Refused also if nobody outside can dial the address."""
        mapping = await port.map(self.mapped, LEASE_S)
        if fault := _fault_of(mapping.address):
            with contextlib.suppress(Exception):  # the lease ends anyway
                await port.remove(REMOVE_TIMEOUT_S)
            raise Refused(fault)
        return mapping

    def _on_mapping(self, mapping: Mapping) -> float:
        if mapping.was_reset:
            self._end_mapping("the router has restarted")
        before, self._mapping = self.mapped, mapping
        self._expires_at = self._now() + mapping.lifetime_s
        self._failures, self._problem = 0, ""
        if mapping.address != before:
            logger.info("the router maps %s to this node (%s)", mapping.address, mapping.protocol)
            self._apply(mapping.address)
            self._report(PortMappingOutcome.GRANTED, mapping.address, mapping.protocol)
        return max(MIN_INTERVAL_S, min(mapping.lifetime_s / 2, CHECK_INTERVAL_S))

    def _on_failure(self, problem: str, *, is_final: bool) -> float:
        """No mapping came of an attempt. `is_final`: not for lack of an answer."""
        if self._mapping is not None:
            left_s = self._expires_at - self._now()
            if not is_final and left_s > 0:
                return min(RETRY_S, left_s)
            self._end_mapping(problem)
        elif problem != self._problem:
            logger.info("the router maps no port: %s", problem)
            self._report(PortMappingOutcome.REFUSED, reason=problem)
        self._problem = problem
        shortest_s, longest_s = BACKOFF_BOUNDS_S
        wait_s = min(shortest_s * 2.0 ** min(self._failures, 16), longest_s)
        self._failures += 1
        return wait_s

    def _end_mapping(self, reason: str) -> None:
        """There is no mapping any more."""
        if self._mapping is None:
            return
        lost, self._mapping = self._mapping, None
        logger.info("the mapping of %s ended: %s", lost.address, reason)
        self._apply(None)
        self._report(PortMappingOutcome.LOST, lost.address, lost.protocol, reason)

    def _report(
        self,
        outcome: PortMappingOutcome,
        address: Address | None = None,
        protocol: str = "",
        reason: str = "",
    ) -> None:
        self.outcomes[outcome] += 1
        self._publish(PortMappingChanged(outcome, address, protocol, reason))


def _needs_mapping(address: Address) -> bool:
    """Whether others do not dial it: it is of a private network, or shared among customers of a provider."""
    return (address.is_private and not address.is_loopback) or _is_shared(address)


def _is_shared(address: Address) -> bool:
    host = ipaddress.ip_address(address.host)
    return host.version == 4 and host in _SHARED


def _fault_of(external: Address) -> str:
    """Why others cannot dial an external address; empty if they can."""
    if external.is_private or _is_shared(external):
        return f"the router is behind another NAT: it has the address {external.host} outside"
    host = ipaddress.ip_address(external.host)
    return external.undialable_reason or ("no address" if host.is_link_local else "")
