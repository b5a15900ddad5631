"""Configuration: an invalid one cannot exist, and errors are one line with the remedy."""

from __future__ import annotations

import dataclasses
import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grapevine_proto.config.node import DURATIONS, NodeConfig, setting_names
from grapevine_proto.config.sections import (
    SECTIONS,
    AntiEntropyConfig,
    CongestionConfig,
    DetectionConfig,
    EpidemicConfig,
    LimitsConfig,
    RateLimitConfig,
)
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError, KeyFileError
from grapevine_proto.ids import Address, PeerId


def problem_of(text: str, directory: Path) -> str:
    """Returns the one-line error for a config file that contains `text`."""
    path = directory / "gv.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        NodeConfig.from_toml(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bind", "127.0.0.1"),
        ("bind", "127.0.0.1:65536"),
        ("bind", "::1:8000"),
        ("bind", 8000),
        ("advertise", "example.org:8000"),
        ("advertise", "10.0.0.1:0"),
        ("bootstrap_peers", "127.0.0.1"),
        ("bootstrap_peers", 8000),
        ("bootstrap_peers", ("127.0.0.1", 65536)),
        ("bootstrap_peers", ["127.0.0.1:8000-8064"]),
        ("bootstrap_peers", ["127.0.0.1:0-3"]),
        ("bind", "127.0.0.1:8003-8000"),
        ("bind", "127.0.0.1:8000-8001-8002"),
        ("bind", "127.0.0.1:65535-65536"),
        ("bind", "127.0.0.1:-8001"),
        ("bind", (b"127.0.0.1", 8000)),
        ("advertise", "10.0.0.1:8000-8003"),
        ("keys", b"x" * 32),
        ("fanout", timedelta(seconds=3)),
        ("leave_timeout", -1),
        ("order_wait", timedelta(days=1)),
        ("bootstrap_peers", ["nowhere"]),
        ("bootstrap_peers", [8000]),
        ("keys", ["00" * 32]),
        ("denied", ["00" * 32]),
        ("name", "x" * 65),
        ("name", "\ud800"),
        ("zone", 3),
        ("strategy", "epidmic"),
        ("distribution", "uniformly"),
        ("gossip_interval", 0),
        ("gossip_interval", float("nan")),
        ("gossip_interval", "5"),
        ("fanout", 0),
        ("fanout", True),
        ("fanout", 2.5),
        ("max_peers", 513),
        ("max_message_size", 0),
        ("peer_timeout", 9.0),
        ("message_dedup_ttl", 0.5),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        NodeConfig(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (AntiEntropyConfig, "interval", 0),
        (AntiEntropyConfig, "enabled", 1),
        (EpidemicConfig, "forward_probability", 1.5),
        (EpidemicConfig, "hops", 256),
        (RateLimitConfig, "refill_rate", float("inf")),
        (LimitsConfig, "gaps", 0),
    ],
)
def test_a_wrong_value_in_a_section_is_refused_by_its_dotted_name(
    section: type, field: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=rf"^\w+\.{field}: "):
        section(**{field: value})


def test_replace_validates_and_rejects_unknown_fields() -> None:
    config = NodeConfig()
    assert config.replace(fanout=4).fanout == 4
    with pytest.raises(ConfigError, match="fanout"):
        config.replace(fanout=0)
    with pytest.raises(ConfigError, match="fanot: unknown setting"):
        config.replace(fanot=4)


def test_lists_are_accepted_and_stored_as_tuples() -> None:
    config = NodeConfig(bootstrap_peers=["127.0.0.1:1"])
    assert config.bootstrap_peers == ("127.0.0.1:1",)
    assert hash(config)


def test_a_single_value_is_accepted_where_a_list_is() -> None:
    key, denied = ClusterKey.generate(), PeerId(bytes(32))
    config = NodeConfig(keys=key, denied=denied, bootstrap_peers="127.0.0.1:1")
    assert (config.keys, config.denied) == ((key,), (denied,))
    assert config.bootstrap_peers == ("127.0.0.1:1",)
    assert config.replace(keys=[key]) == config


def test_an_address_or_a_pair_is_accepted_where_text_is() -> None:
    address = Address("::1", 8000)
    config = NodeConfig(bind=("127.0.0.1", 1), advertise=address, bootstrap_peers=[address])
    assert (config.bind, config.advertise) == ("127.0.0.1:1", "[::1]:8000")
    assert config.bootstrap_peers == ("[::1]:8000",)
    assert NodeConfig(bootstrap_peers=address).bootstrap_peers == ("[::1]:8000",)
    mixed = NodeConfig(bootstrap_peers=(("a.example", 1), "b.example:2", address))
    assert mixed.bootstrap_peers == ("a.example:1", "b.example:2", "[::1]:8000")
    assert hash(mixed)


def test_a_range_of_ports_is_kept_as_written_and_expands_to_addresses(tmp_path: Path) -> None:
    written = ("[::1]:8000-8002", "db.example:7-7", "127.0.0.1:9")
    config = NodeConfig(bind="127.0.0.1:8000-8063", bootstrap_peers=written)
    assert config.bootstrap_peers == written
    assert config.bootstrap_addresses == (
        *("[::1]:8000", "[::1]:8001", "[::1]:8002"),
        *("db.example:7", "127.0.0.1:9"),
    )
    config.to_toml(tmp_path / "gv.toml")
    assert NodeConfig.from_toml(tmp_path / "gv.toml") == config


def test_a_timedelta_is_accepted_as_any_duration() -> None:
    values: dict[str, Any] = {
        name: timedelta(milliseconds=500 * 2**number)
        for number, name in enumerate(DURATIONS)
        if name != "batch_delay"
    }
    config = NodeConfig(**values)
    assert (config.gossip_interval, config.order_wait) == (0.5, 128.0)
    assert NodeConfig(batch_delay=timedelta(milliseconds=20)).batch_delay == 0.02
    assert AntiEntropyConfig(interval=timedelta(minutes=1)).interval == 60.0
    assert DetectionConfig(probe_timeout=timedelta(seconds=1)).probe_timeout == 1.0
    assert CongestionConfig(min_rtt_window=timedelta(seconds=5)).min_rtt_window == 5.0
    with pytest.raises(ConfigError, match="peer_timeout"):
        config.replace(peer_timeout=timedelta(seconds=0))


@pytest.mark.parametrize("kind", [NodeConfig, *SECTIONS.values()])
def test_the_declared_signature_of_a_constructor_names_all_fields(kind: type) -> None:
    declared = inspect.getsource(kind).partition("def __init__(")[2].partition("-> None")[0]
    names = re.findall(r"(\w+): [^=]+ = \.\.\.", declared)
    assert names == [each.name for each in dataclasses.fields(kind)] or not declared


def test_a_config_file_changes_only_the_settings_in_it(tmp_path: Path) -> None:
    path = tmp_path / "gv.toml"
    path.write_text('fanout = 4\nname = "ams-1"\n[epidemic]\nhops = 3\n', encoding="utf-8")
    expected = NodeConfig(fanout=4, name="ams-1", epidemic=EpidemicConfig(hops=3))
    assert NodeConfig.from_toml(path) == expected


def test_key_files_are_relative_to_the_config_file_and_keep_their_order(
    tmp_path: Path,
) -> None:
    first, second = ClusterKey.generate(), ClusterKey.generate()
    (tmp_path / "keys").mkdir()
    first.save(tmp_path / "keys" / "new.key")
    second.save(tmp_path / "old.key")
    path = tmp_path / "gv.toml"
    path.write_text(f'key_files = ["keys/new.key", "{tmp_path}/old.key"]\n', encoding="utf-8")
    assert NodeConfig.from_toml(path).keys == (first, second)


def test_a_missing_key_file_is_a_key_file_error(tmp_path: Path) -> None:
    path = tmp_path / "gv.toml"
    path.write_text('key_files = ["not.there"]\n', encoding="utf-8")
    with pytest.raises(KeyFileError, match=r"not\.there"):
        NodeConfig.from_toml(path)


def test_the_section_of_the_application_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "gv.toml"
    path.write_text('[app]\nanything = "goes"\n', encoding="utf-8")
    assert NodeConfig.from_toml(path) == NodeConfig()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("\nfanot = 4\n", ["fanot", "set to 4", "fanout?", "line 2"]),
        ("[epidemic]\nhop = 4\n", ["epidemic.hop", "epidemic.hops?", "line 2"]),
        ("[epidemic]\nfanout = 4\n", ["epidemic.fanout", "did you mean", "line 2"]),
        ("\n\n[epidemc]\nhops = 4\n", ["epidemc", "unknown section", "epidemic?", "line 3"]),
        ("fanout = 0\n", ["fanout", "must be between 1 and 1000, got 0", "line 1"]),
        ('fanout = "3"\n', ["fanout", "'3'", "line 1"]),
        ("# no\n[anti_entropy]\ninterval = -1\n", ["anti_entropy.interval", "-1", "line 3"]),
        ("anti_entropy.interval = -1\n", ["anti_entropy.interval", "-1", "line 1"]),
        ("anti_entropy = { interval = -1 }\n", ["anti_entropy.interval", "-1", "line 1"]),
        ("epidemic = 4\n", ["epidemic", "section", "line 1"]),
        ("[fanout]\nx = 1\n", ["fanout", "expected a value", "line 1"]),
        ('strategy = "epidmic"\n', ["strategy", "'epidmic'", "epidemic", "line 1"]),
        ('denied = ["zz"]\n', ["denied", "'zz'", "line 1"]),
        ("denied = 3\n", ["denied", "list", "line 1"]),
        ('key_files = "a.key"\n', ["key_files", "list", "line 1"]),
        ("fanout = \n", ["not TOML", "line 1"]),
        ("fanout = 3\nfanout = 3\n", ["not TOML", "line 2"]),
        ("x = " + "[" * 5000 + "\n", ["not TOML"]),
        ("fanout = " + "9" * 5000 + "\n", ["not TOML"]),
    ],
)
def test_an_error_in_a_config_file_is_one_line_with_its_location(
    text: str, parts: list[str], tmp_path: Path
) -> None:
    line = problem_of(text, tmp_path)
    for part in parts:
        assert part in line


def test_a_key_in_a_config_file_is_refused_and_not_quoted(tmp_path: Path) -> None:
    secret = "ab" * 32
    for name in ("keys", "key", "cluster_key"):
        for value in (f'"{secret}"', f'["{secret}"]'):
            line = problem_of(f"{name} = {value}\n", tmp_path)
            assert "key_files" in line
            assert secret not in line
    assert secret not in problem_of(f'cluter = "{secret}"\n', tmp_path)


def test_a_missing_or_binary_config_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        NodeConfig.from_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="directory"):
        NodeConfig.from_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"\n')
    with pytest.raises(ConfigError, match="not UTF-8"):
        NodeConfig.from_toml(tmp_path / "latin.toml")


def test_to_toml_never_writes_a_key(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text("5e" * 32 + "\n")
    (tmp_path / "a.key").chmod(0o600)
    key = ClusterKey.load(tmp_path / "a.key")
    path = tmp_path / "gv.toml"
    NodeConfig(keys=(key,)).to_toml(path)
    text = path.read_text(encoding="utf-8")
    assert "5e5e" not in text
    assert key.fingerprint not in text
    assert "key" not in text


def test_to_toml_into_a_missing_directory_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        NodeConfig().to_toml(tmp_path / "no" / "gv.toml")


def test_every_setting_has_a_dotted_name_and_keys_have_none() -> None:
    names = setting_names()
    assert "epidemic.hops" in names
    assert "limits.cache_bytes" in names
    assert "keys" not in names
    assert len(names) == len(set(names))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=16)
PEERS = st.lists(st.sampled_from(["127.0.0.1:8000", "[::1]:9", "node.example:80"]), max_size=3)
CONFIGS = st.builds(
    NodeConfig,
    name=TEXTS,
    zone=TEXTS,
    cluster=TEXTS,
    bootstrap_peers=PEERS.map(tuple),
    denied=st.lists(st.binary(min_size=32, max_size=32).map(PeerId), max_size=2).map(tuple),
    gossip_interval=st.floats(0.05, 15),
    peer_timeout=st.floats(30, 86_400) | st.integers(30, 86_400),
    fanout=st.integers(1, 1000),
    anti_entropy=st.builds(
        AntiEntropyConfig, enabled=st.booleans(), interval=st.floats(0.1, 86_400)
    ),
    epidemic=st.builds(EpidemicConfig, forward_probability=st.floats(0, 1)),
    rate_limit=st.builds(RateLimitConfig, capacity=st.integers(1, 10**9)),
    limits=st.builds(LimitsConfig, cache_bytes=st.integers(1, 2**40)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(CONFIGS)
def test_a_configuration_survives_to_toml_and_from_toml(tmp_path: Path, config: NodeConfig) -> None:
    path = tmp_path / "gv.toml"
    config.to_toml(path)
    assert NodeConfig.from_toml(path) == config


def test_profiles_differ_only_in_timeouts_and_wan_also_in_optimize_links() -> None:
    timing = {"gossip_interval", "peer_timeout", "connection_timeout", "anti_entropy", "detection"}
    for profile, others in (
        (NodeConfig.local(), timing),
        (NodeConfig.wan(), {*timing, "optimize_links"}),
    ):
        for each in dataclasses.fields(NodeConfig):
            same = getattr(profile, each.name) == getattr(NodeConfig.lan(), each.name)
            assert same is (each.name not in others)
