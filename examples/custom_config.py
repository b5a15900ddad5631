"""Settings: a profile and what differs from it, a file and back, a mistake, and a change while running.

python examples/custom_config.py
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from grapevine_proto import (
    AntiEntropyConfig,
    ClusterKey,
    ConfigError,
    Node,
    NodeConfig,
    RateLimitConfig,
)


def made_by_hand() -> NodeConfig:
    """A profile gives figures that fit together; name only what is special here."""
    return NodeConfig.wan(
        bind="127.0.0.1:0",
        name="sensor-hub",
        zone="eu-west",
        # many small readings: let them share a signature for up to 20 ms
        batch_delay=0.02,
        # sensors come and go, so keep what they missed for a quarter of an hour
        message_dedup_ttl=900,
        anti_entropy=AntiEntropyConfig(interval=15, fanout=2),
        rate_limit=RateLimitConfig(capacity=500, refill_rate=200),
    )


def kept_in(path: Path, config: NodeConfig) -> NodeConfig:
    """As a file and back. Keys are secrets: a file only ever names where they are."""
    config.to_toml(path)
    return NodeConfig.from_toml(path)


async def main() -> None:
    config = made_by_hand()

    # A wrong value cannot exist: it is refused by name before anything has started.
    try:
        config.replace(fanout=0)
    except ConfigError as error:
        print(f"refused: {error}")

    with tempfile.TemporaryDirectory() as folder:
        kept = kept_in(Path(folder, "node.toml"), config)
        print(f"written and read again: {'the same' if kept == config else 'another'}")

    # A config is frozen; a running node takes over a new one as far as it can, and says what it cannot.
    config = config.replace(keys=[ClusterKey.generate()])
    async with Node(config) as node:
        restart = node.reconfigure(config.replace(fanout=4, max_peers=20, zone="eu-north"))
        print(f"at once: fanout, max_peers; after a restart: {', '.join(restart)}")


if __name__ == "__main__":
    asyncio.run(main())
