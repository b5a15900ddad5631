"""The story of the demo: what its nodes do, and a caption that says what one sees of it.

Invariants:

- A caption is shown only while its claim holds for what the node shown knows, or for the state of the
  simulated node that it names. Claims are conditions; the clock only decides what is tried next.
- A scene that cannot be played, because its node is not connected or was denied, is skipped.
- The story repeats for ever.

Driven by the demo: `run` as a task, and `caption` whenever the screen is painted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count, islice
from typing import Final, NamedTuple

from grapevine_proto.errors import GrapevineError
from grapevine_proto.events import MemberInfo, MemberStatus, PeerInfo, PeerState, Via
from grapevine_proto.ids import PeerId, Zone
from grapevine_tui.demo.cluster import DEMO_NODES, DemoCluster, DemoNode
from grapevine_tui.host.model import Model
from grapevine_tui.host.protocol import Caption

logger = logging.getLogger("grapevine.demo")

WELCOME_S: Final = 10.0
STEP_S: Final = 2.0  # between two messages of a deploy
AFTER_DEPLOY_S: Final = 6.0
LOSS: Final = 0.7
LOSS_S: Final = 12.0
TOTAL_LOSS_S: Final = 9.0  # longer than a link lives in silence
STALL_S: Final = 16.0
RETURN_TIMEOUT_S: Final = 20.0
ACTOR_TIMEOUT_S: Final = 10.0
AFTER_SCENE_S: Final = 6.0
CALM_S: Final = 30.0
POLL_S: Final = 0.25  # between two looks at a condition
MESSAGE_INTERVAL_S: Final = 1.0  # mean, of the whole cluster
DIRECT_MESSAGE_PROBABILITY: Final = 0.1
BURST_MESSAGES: Final = 36  # less than the node shown allows, so that only two at once are too many
RECENT_S: Final = 15.0
MAX_CRASHES: Final = 4
AFTER_BURST_S: Final = 2.0
RECENT_MESSAGES: Final = 200  # searched for the messages of a deploy
DEPLOY_TOPIC: Final = "deploy.api"
DEPLOYED_ROLE: Final = "api"

MESSAGE_TEXTS: Final = (
    "disk 91 % on /var, cleaning up",
    "cache warm again, hit rate 0.97",
    "certificate renewed, 89 days left",
    "backup of orders done, 41 GB in 6 min",
    "latency to payments back to 40 ms",
    "new leader for shard 12",
    "queue depth 0, nothing waiting",
    "clock offset 0.3 ms",
    "thanks, looking",
    "looks good from here",
    '{"job":"reindex","done":0.62}',
    "log volume up 12 % since yesterday",
    "夜間バッチ完了",
)

Claim = Callable[[], Caption | None]
Pause = Callable[[float], Awaitable[None]]


class Actor(NamedTuple):
    """A simulated node that plays in a scene."""

    node: DemoNode
    number: int
    peer_id: PeerId

    @property
    def name(self) -> str:
        return self.node.name


class Story:
    """Plays on `cluster` and reads `model`, that of the node shown."""

    def __init__(
        self,
        cluster: DemoCluster,
        model: Model,
        *,
        rng: random.Random,
        pause: Pause = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._simulation = cluster.simulation
        self._model = model
        self._rng = rng
        self._pause = pause
        self._claims: tuple[Claim, ...] = (self._joining,)
        self.scene = "welcome"

    def caption(self) -> Caption:
        """What one sees now, and the key that shows more."""
        for claim in self._claims:
            found = claim()
            if found is not None:
                return found
        return self._overview()

    async def run(self) -> None:
        """Play the story, again and again."""
        await self._pause(WELCOME_S)
        for minor in count(5):
            await self._play("deploy", self._deploy(f"2.{minor}.0"))
            await self._play("loss", self._loss())
            await self._play("stall", self._stall())
            await self._play("burst", self._burst())
            self._set_claims("calm", self._all_up)
            await self._pause(CALM_S)

    async def chat(self) -> None:
        """Let the nodes talk at a human rate, for ever."""
        while True:
            await self._pause(self._rng.expovariate(1 / MESSAGE_INTERVAL_S))
            node = self._rng.choice(DEMO_NODES)
            text = self._rng.choice(MESSAGE_TEXTS).encode()
            number = self._cluster.number_of(node.name)
            with suppress(GrapevineError):  # it is down, or knows no way to the node shown
                if self._rng.random() < DIRECT_MESSAGE_PROBABILITY and self._model.local_node:
                    self._simulation.send(number, self._model.local_node.peer_id, text)
                else:
                    self._simulation.broadcast(number, text)

    async def _play(self, name: str, scene: Awaitable[None]) -> None:
        self.scene = name
        self._claims = ()
        try:
            await scene
        except GrapevineError as error:  # the node of the scene is not as it should be
            logger.info("scene %s ends early: %s", name, error)
        self._claims = ()

    def _set_claims(self, scene: str, *claims: Claim) -> None:
        """The claims of a scene, the most telling one first."""
        self.scene, self._claims = scene, claims

    async def _wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `condition` holds; return whether it does."""
        left_s = timeout_s
        while not condition():
            if left_s <= 0:
                return False
            await self._pause(POLL_S)
            left_s -= POLL_S
        return True

    # --- what is so ---------------------------------------------------------------------------------

    def _choose(self, zone: Zone) -> Actor | None:
        """A connected peer, in that zone if there is one; None without any."""
        actors = [
            Actor(each, self._cluster.number_of(each.name), peer_id)
            for each in DEMO_NODES
            if (peer_id := self._cluster.node(each.name).peer_id) is not None
            and self._cluster.is_up(each.name)
            and self._is_connected(peer_id)
        ]
        return min(actors, key=lambda each: each.node.zone != zone, default=None)

    async def _find_actor(self, zone: Zone) -> Actor | None:
        """The same, waiting a while for one."""
        await self._wait_for(lambda: self._choose(zone) is not None, ACTOR_TIMEOUT_S)
        return self._choose(zone)

    def _is_connected(self, peer_id: PeerId) -> bool:
        peer = self._model.peers.get(peer_id)
        return peer is not None and peer.state is PeerState.CONNECTED

    def _peer(self, actor: Actor) -> PeerInfo | None:
        return self._model.peers.get(actor.peer_id)

    def _member(self, actor: Actor) -> MemberInfo | None:
        return self._model.members.get(actor.peer_id)

    def _has_status(self, actor: Actor, status: MemberStatus) -> bool:
        member = self._member(actor)
        return member is not None and member.status is status

    def _repaired(self, actor: Actor, since: float) -> int:
        """How many messages that node got by repair since that virtual time."""
        deliveries = self._simulation.nodes[actor.number].deliveries.values()
        return sum(each.via is Via.REPAIR and each.at >= since for each in deliveries)

    def _joining(self) -> Caption | None:
        if len(self._model.members) >= len(DEMO_NODES):
            return None
        peers = sum(peer.state.is_connected for peer in self._model.peers.values())
        return Caption(
            "joining",
            f"This node joins a cluster: {peers} peers connected, "
            f"{len(self._model.members)} members known so far",
            "members",
            "lists the members",
        )

    def _overview(self) -> Caption:
        """What is always true."""
        peers = [each for each in self._model.peers.values() if each.state.is_connected]
        rtts_ms = [each.rtt_s * 1000 for each in peers if each.rtt_s is not None]
        zones = {each.zone for each in peers}
        if not rtts_ms:
            return Caption(
                "alone", "This node looks for its cluster", "members", "lists the members"
            )
        return Caption(
            "overview",
            f"{len(peers)} peers in {len(zones)} zones, {min(rtts_ms):.0f} to {max(rtts_ms):.0f} ms"
            " away; the others are several hops away",
            "topology",
            "draws zones and links",
        )

    def _all_up(self) -> Caption | None:
        members = self._model.members.values()
        if not members or any(each.status is not MemberStatus.UP for each in members):
            return None
        return Caption(
            "calm",
            f"Calm: all {len(members)} other members are up",
            "traces",
            "then + shows who gets a message, and how fast",
        )

    # --- a deploy in steps --------------------------------------------------------------------------

    async def _deploy(self, version: str) -> None:
        nodes = [each for each in DEMO_NODES if each.role == DEPLOYED_ROLE]
        ci = next(each for each in DEMO_NODES if each.role == "ci")
        steps = 2 * len(nodes) + 2

        def step() -> Caption | None:
            shown = self._deploy_messages(version)
            if not 0 < shown < steps:
                return None
            return Caption(
                "deploying",
                f"A deploy of api {version}: {shown} of its {steps} messages are here so far",
                "filter",
                "then topic:deploy.> shows only them",
            )

        def done() -> Caption | None:
            updated = sum(
                member.tags.get("version") == version for member in self._model.members.values()
            )
            if not updated:
                return None
            return Caption(
                "deployed",
                f"{updated} members run api {version}, as their tags say",
                "members",
                f"then / and tag:version={version} lists them",
            )

        self._set_claims("deploy", step, done)
        self._publish(ci, f"deploy api {version}: {len(nodes)} nodes, one zone after the other")
        for number, node in enumerate(nodes, 1):
            await self._pause(STEP_S)
            self._publish(ci, f"deploy api {version} {number}/{len(nodes)}: {node.name} drains")
            await self._pause(STEP_S)
            with suppress(GrapevineError):
                self._simulation.set_tags(
                    self._cluster.number_of(node.name), {"role": node.role, "version": version}
                )
            self._publish(
                node, f"deploy api {version} {number}/{len(nodes)}: {node.name} checks passed"
            )
        await self._pause(STEP_S)
        self._publish(ci, f"deploy api {version} done: {len(nodes)} of {len(nodes)}, 0 errors")
        await self._pause(AFTER_DEPLOY_S)

    def _publish(self, node: DemoNode, text: str) -> None:
        with suppress(GrapevineError):
            self._simulation.publish(
                self._cluster.number_of(node.name), DEPLOY_TOPIC, text.encode()
            )

    def _deploy_messages(self, version: str) -> int:
        """How many messages of this deploy have come."""
        start = f"deploy api {version}".encode()
        latest = islice(self._model.messages.newest_first(), RECENT_MESSAGES)
        return sum(
            entry.message.topic == DEPLOY_TOPIC and entry.message.payload.startswith(start)
            for entry in latest
        )

    # --- a node that loses packets ------------------------------------------------------------------

    async def _loss(self) -> None:
        actor = await self._find_actor("eu-central")
        if actor is None:
            return
        start = self._simulation.now
        peer = self._peer(actor)
        before = 0 if peer is None else peer.lost
        loss = LOSS

        def losing() -> Caption | None:
            peer = self._peer(actor)
            if not loss or peer is None or not peer.state.is_connected:
                return None
            lost = peer.lost - before
            if lost <= 0:
                return None
            return Caption(
                "losing",
                f"{actor.name} loses {loss:.0%} of its packets: {lost} of ours were sent again",
                "peers",
                "then Enter on it shows its health",
            )

        def repaired() -> Caption | None:
            messages = self._repaired(actor, start)
            if not messages:
                return None
            return Caption(
                "repaired",
                f"{actor.name} missed messages and got {messages} of them by repair",
                "rounds",
                "shows anti-entropy, which repairs",
            )

        self._set_claims("loss", losing, repaired)
        try:
            self._simulation.degrade(actor.number, loss)
            await self._pause(LOSS_S)
            if not self._repaired(
                actor, start
            ):  # what is lost is sent again while a little gets through
                loss = 1.0
                self._simulation.degrade(actor.number, loss)
                await self._pause(TOTAL_LOSS_S)
        finally:
            loss = 0.0
            self._simulation.degrade(actor.number, loss)
        await self._wait_for(lambda: self._repaired(actor, start) > 0, RETURN_TIMEOUT_S)
        await self._pause(AFTER_SCENE_S)

    # --- a node that stalls -------------------------------------------------------------------------

    async def _stall(self) -> None:
        actor = await self._find_actor("us-east")
        if actor is None:
            return
        stalled_at = self._simulation.now

        def suspect() -> Caption | None:
            if not self._has_status(actor, MemberStatus.SUSPECT):
                return None
            return Caption(
                "suspect",
                f"{actor.name} does not answer: members suspect it, and it may still refute",
                "members",
                "shows who accuses it",
            )

        def down() -> Caption | None:
            if not self._has_status(actor, MemberStatus.DOWN):
                return None
            return Caption(
                "down",
                f"{actor.name} is down: it did not answer in time",
                "events",
                "says since when, and why",
            )

        def back() -> Caption | None:
            is_up = self._has_status(actor, MemberStatus.UP) and self._cluster.is_up(actor.name)
            if not was_down or not is_up:
                return None
            messages = self._repaired(actor, stalled_at)
            caught_up = f" and got {messages} missed messages by repair" if messages else ""
            return Caption(
                "back",
                f"{actor.name} is back{caught_up}",
                "events",
                "keeps what happened to it",
            )

        was_down = False
        self._set_claims("stall", suspect, down, back)
        self._simulation.suspend(actor.number, STALL_S)
        if await self._wait_for(
            lambda: self._has_status(actor, MemberStatus.DOWN), STALL_S + RETURN_TIMEOUT_S
        ):
            was_down = True
        await self._wait_for(
            lambda: (
                self._has_status(actor, MemberStatus.UP) and self._repaired(actor, stalled_at) > 0
            ),
            STALL_S + RETURN_TIMEOUT_S,
        )
        await self._pause(AFTER_SCENE_S)

    # --- a node that sends too much -----------------------------------------------------------------

    async def _burst(self) -> None:
        actor = await self._find_actor("ap-south")
        local_node = self._model.local_node
        if actor is None or local_node is None:
            return
        before = self._model.throttled_at.get(actor.peer_id, 0.0)

        def throttled() -> Caption | None:
            at = self._model.throttled_at.get(actor.peer_id, 0.0)
            peer = self._peer(actor)
            age_s = self._model.wall_now() - at
            if at <= before or age_s > RECENT_S or peer is None or not peer.throttled:
                return None
            return Caption(
                "throttled",
                f"{actor.name} sent more than its rate limit: {peer.throttled} messages dropped",
                "rates",
                "shows the limits and who is near them",
            )

        self._set_claims("burst", throttled)
        # A node keeps to the limits of its peers. One that crashes has forgotten what it sent, and exceeds
        # them if it is back before the tokens are.
        self._simulation.reconfigure(actor.number, bootstrap_peers=(str(local_node.address),))
        for _ in range(MAX_CRASHES):
            await self._send_burst(actor, local_node.peer_id, "job started")
            self._simulation.restart(actor.number)
            if await self._wait_for(lambda: self._is_linked(actor, local_node.peer_id), RECENT_S):
                await self._send_burst(actor, local_node.peer_id, "restarted, job sent again")
            if await self._wait_for(lambda: throttled() is not None, AFTER_BURST_S):
                break
        await self._pause(2 * AFTER_SCENE_S)

    def _is_linked(self, actor: Actor, peer_id: PeerId) -> bool:
        return any(
            each.peer_id == peer_id and each.state.is_connected
            for each in self._simulation.peers(actor.number)
        )

    async def _send_burst(self, actor: Actor, to: PeerId, text: str) -> None:
        with suppress(GrapevineError):
            for number in range(1, BURST_MESSAGES + 1):
                self._simulation.send(actor.number, to, f"{text}: {number}".encode())
        await self._pause(POLL_S)
