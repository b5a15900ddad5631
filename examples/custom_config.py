"""Configuration: a profile with changes, a config file, an invalid value, and a change at run time.

python examples/custom_config.py
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path

from grapevine_proto import (
    AntiEntropyConfig,
    ClusterKey,
    ConfigError,
    Node,
    NodeConfig,
    RateLimitConfig,
)


def custom_config() -> NodeConfig:
    """A profile supplies consistent values; set only what differs."""
    return NodeConfig.wan(
        bind="127.0.0.1:0",
        name="sensor-hub",
        zone="eu-west",
        # many small readings: let them share a signature, with up to 20 ms of delay
        batch_delay=0.02,
        # sensors are often offline: cache messages for a quarter of an hour
        message_dedup_ttl=timedelta(minutes=15),
        anti_entropy=AntiEntropyConfig(interval=15, fanout=2),
        rate_limit=RateLimitConfig(capacity=500, refill_rate=200),
    )


def round_trip(path: Path, config: NodeConfig) -> NodeConfig:
    """Writes and reads a config file. The file never contains keys, only the paths of key files."""
    config.to_toml(path)
    return NodeConfig.from_toml(path)


async def main() -> None:
    config = custom_config()

    # An invalid value raises an error with the name of the setting, before anything starts.
    try:
        config.replace(fanout=0)
    except ConfigError as error:
        print(f"rejected: {error}")

    with tempfile.TemporaryDirectory() as directory:
        restored = round_trip(Path(directory, "node.toml"), config)
        print(f"written and read again: {'equal' if restored == config else 'different'}")

    # A config is immutable. A running node applies what it can of a new one, and returns the rest.
    config = config.replace(keys=ClusterKey.generate())
    async with Node(config) as node:
        restart = node.reconfigure(config.replace(fanout=4, zone="eu-north", cluster="other"))
        print(f"applied: fanout, zone; after a restart: {', '.join(restart)}")


if __name__ == "__main__":
    asyncio.run(main())
