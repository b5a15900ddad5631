"""Every setting comes from one place, which is known, and the nearer place wins."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from grapevine_proto.config.node import NodeConfig
from grapevine_proto.crypto.cluster_key import ClusterKey
from grapevine_proto.errors import ConfigError, KeyFileError
from grapevine_tui.config.options import OPTIONS, PROFILES, rust_log_level
from grapevine_tui.config.settings import Settings, load_settings
from grapevine_tui.config.sources import APP_DEFAULTS, FILE_SETTINGS, TABLE_SETTINGS
from grapevine_tui.config.template import BIND_BY_PROFILE, render, setting_help
from grapevine_tui.config.user_files import expand_user, user_key_file
from tests.sources import ROOT


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives each test its own user and directory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path


def origin(settings: Settings, name: str) -> str:
    return next(each.origin for each in settings.values if each.name == name)


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(flags, environ or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_anything_the_node_is_grapevines_on_loopback() -> None:
    settings = load_settings({}, {})
    assert settings.node.bind == "127.0.0.1:8000"
    assert settings.node == NodeConfig.local(bind="127.0.0.1:8000", name=settings.node.name)
    assert settings.profile == "local"
    assert settings.log_level == "info"
    assert settings.on_eof == "stay"
    assert settings.node.strategy == "auto"
    assert not settings.headless


def test_each_layer_wins_over_the_one_below(home: Path) -> None:
    assert load_settings({}, {}).node.fanout == 3
    write("../config/grapevine/config.toml", "fanout = 4\n")
    assert load_settings({}, {}).node.fanout == 4
    write(".env", "FANOUT=5\n")
    assert load_settings({}, {}).node.fanout == 5
    assert load_settings({}, {"FANOUT": "6"}).node.fanout == 6
    assert load_settings({"fanout": "7"}, {"FANOUT": "6"}).node.fanout == 7


def test_each_value_has_its_origin() -> None:
    write("gv.toml", "\nfanout = 4\n[anti_entropy]\ninterval = 7\n")
    write(".env", "MAX_PEERS=9\n")
    flags = {"app.config": "gv.toml", "port": "9000", "app.headless": True}
    settings = load_settings(flags, {"GRAPEVINE_ZONE": "eu"})
    assert origin(settings, "fanout") == "gv.toml, line 2"
    assert origin(settings, "anti_entropy.interval") == "gv.toml, line 4"
    assert origin(settings, "max_peers") == ".env: MAX_PEERS"
    assert origin(settings, "zone") == "environment: GRAPEVINE_ZONE"
    assert origin(settings, "port") == "--port"
    assert origin(settings, "app.headless") == "--headless"
    assert origin(settings, "gossip_interval") == "profile local"
    assert origin(settings, "epidemic.hops") == "default"


def test_every_setting_is_shown_with_its_value_and_no_secret(home: Path) -> None:
    key = home / "c.key"
    key.write_text("5e" * 32 + "\n")
    key.chmod(0o600)
    settings = load_settings({"key_files": (str(key),)}, {}).with_keys()
    shown = "\n".join(settings.format_lines())
    for name in (*settings.node.settings(), *APP_DEFAULTS):
        assert name == "bind" or f"\n{name} = " in f"\n{shown}"
    assert str(key) in shown
    assert "5e5e" not in shown + repr(settings)


@pytest.mark.parametrize(
    ("host", "profile", "interval"),
    [
        ("127.0.0.1", "local", 1.0),
        ("localhost", "local", 1.0),
        ("::1", "local", 1.0),
        ("0.0.0.0", "lan", 5.0),
        ("10.0.0.7", "lan", 5.0),
        ("node.example", "lan", 5.0),
    ],
)
def test_the_profile_follows_the_address(host: str, profile: str, interval: float) -> None:
    settings = load_settings({"host": host}, {})
    assert settings.profile == profile
    assert settings.node.gossip_interval == interval


def test_a_profile_may_be_chosen_and_is_below_everything_else() -> None:
    write("gv.toml", '[app]\nprofile = "wan"\n[anti_entropy]\nfanout = 2\n')
    settings = load_settings({"app.config": "gv.toml", "gossip_interval": "2"}, {})
    assert settings.profile == "wan"
    assert settings.node.gossip_interval == 2
    assert settings.node.anti_entropy.fanout == 2
    assert settings.node.anti_entropy.interval == 60
    assert load_settings({"app.profile": "lan"}, {"GRAPEVINE_PROFILE": "wan"}).profile == "lan"


def test_a_long_gossip_interval_extends_the_peer_timeout() -> None:
    settings = load_settings({"gossip_interval": "20"}, {})
    assert settings.node.peer_timeout == 120
    assert origin(settings, "peer_timeout") == "6 gossip intervals"
    write("gv.toml", "peer_timeout = 30\n")
    line = refusal({"gossip_interval": "20", "app.config": "gv.toml"})
    assert "peer_timeout" in line
    assert "gv.toml, line 1" in line


def test_peers_come_one_by_one_or_by_commas() -> None:
    settings = load_settings({"bootstrap_peers": ("a:1, b:2", "[::1]:3")}, {})
    assert settings.node.bootstrap_peers == ("a:1", "b:2", "[::1]:3")
    settings = load_settings({}, {"BOOTSTRAP_PEERS": "a:1,b:2,"})
    assert settings.node.bootstrap_peers == ("a:1", "b:2")


def test_an_ipv6_host_is_bound_as_one() -> None:
    for host in ("::1", "[::1]"):
        assert load_settings({"host": host}, {}).node.bind == "[::1]:8000"


def test_a_file_binds_host_and_port_and_flags_change_either() -> None:
    write("gv.toml", 'bind = "10.0.0.7:7000"\n')
    settings = load_settings({"app.config": "gv.toml", "port": "7001"}, {})
    assert settings.node.bind == "10.0.0.7:7001"
    assert settings.profile == "lan"


@pytest.mark.parametrize(
    ("flags", "environ", "parts"),
    [
        ({"port": "abc"}, {}, ["port", "'abc'", "65535", "--port"]),
        ({"port": "65536"}, {}, ["port", "'65536'"]),
        ({"port": "0000000099999"}, {}, ["port"]),
        ({"port": "-1"}, {}, ["port", "'-1'"]),
        ({"host": "127.0.0.1:80"}, {}, ["host", "alone", "--host"]),
        ({"host": ""}, {}, ["bind"]),
        ({"fanout": "3.5"}, {}, ["fanout", "whole number", "'3.5'", "--fanout"]),
        ({"fanout": "0"}, {}, ["fanout", "must be between", "--fanout"]),
        ({"gossip_interval": "nan"}, {}, ["gossip_interval", "'nan'"]),
        ({"bootstrap_peers": ("nowhere",)}, {}, ["bootstrap_peers", "'nowhere'", "--peer"]),
        ({"advertise": "0.0.0.0"}, {}, ["advertise", "--advertise"]),
        ({"name": "x" * 65}, {}, ["name", "64 bytes", "--name"]),
        ({"strategy": "epidmic"}, {}, ["strategy", "'epidmic'", "epidemic", "--strategy"]),
        ({"app.log_level": "loud"}, {}, ["app.log_level", "'loud'", "error, warn, info"]),
        ({"app.profile": "moon"}, {}, ["app.profile", "'moon'", "local, lan, wan", "--profile"]),
        ({"app.on_eof": "maybe"}, {}, ["app.on_eof", "'maybe'", "exit, stay"]),
        ({"app.wait_peers": "-1"}, {}, ["app.wait_peers", "-1"]),
        ({}, {"MAX_PEERS": "many"}, ["max_peers", "'many'", "environment: MAX_PEERS"]),
        ({}, {"GRAPEVINE_LOG": "loud"}, ["app.log_level", "environment: GRAPEVINE_LOG"]),
        ({"app.config": "none.toml"}, {}, ["none.toml", "no such file"]),
        ({}, {"GRAPEVINE_NAME": "\udce9"}, ["name", "Unicode", "environment: GRAPEVINE_NAME"]),
    ],
)
def test_a_wrong_value_is_reported_with_its_location(
    flags: Mapping[str, Any], environ: Mapping[str, str], parts: list[str]
) -> None:
    line = refusal(flags, environ)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[app]\nthem = 1\n", ["app.them", "app.theme?", "line 2"]),
        ("[ap]\ntheme = 1\n", ["ap", "did you mean app?", "line 1"]),
        ("[app]\ntheme = 1\n", ["app.theme", "text", "line 2"]),
        ("[app]\nheadless = 1\n", ["app.headless", "true or false", "line 2"]),
        ("[app]\neof_timeout = -1\n", ["app.eof_timeout", "-1", "line 2"]),
        ("[app]\nstate_dir = 3\n", ["app.state_dir", "3", "line 2"]),
        ("[app]\ndemo = true\n", ["app.demo", "unknown setting", "line 2"]),
        ("app = 3\n", ["app", "section", "line 1"]),
        ("bind = 8000\n", ["bind", "8000", "line 1"]),
        ('bind = "10.0.0.7"\n', ["bind", "10.0.0.7", "line 1"]),
        ("\nfanot = 3\n", ["fanot", "fanout?", "line 2"]),
    ],
)
def test_a_mistake_in_the_config_file_is_reported_with_its_line(
    text: str, parts: list[str]
) -> None:
    write("gv.toml", text)
    line = refusal({"app.config": "gv.toml"})
    for part in [*parts, "gv.toml"]:
        assert part in line


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    settings = load_settings({}, {"BIND_PORT": "", "BOOTSTRAP_PEERS": " ", "GRAPEVINE_ZONE": ""})
    assert settings.node.bind == "127.0.0.1:8000"
    assert origin(settings, "port") == "default"


def test_a_malformed_env_file_line_is_fatal_only_for_a_variable_of_the_program() -> None:
    write(".env", "FANOUT=4\nset -o allexport\n")
    settings = load_settings({}, {})
    assert settings.node.fanout == 4
    assert settings.warnings == (".env, line 2: not NAME=value; the line is ignored",)
    write(".env", "FANOUT=3\nMAX_PEERS 9\n")
    assert refusal({}) == ".env, line 2: expected NAME=value"


@pytest.mark.parametrize(
    "content", [b"SECRET=\xe9\nset -o allexport\n", b"A=1\n" * 300_000, b"\x00\xff", b""]
)
def test_an_env_file_of_another_project_stops_nothing(content: bytes) -> None:
    write(".env", "").write_bytes(content)
    Path(".env").chmod(0o666)
    plain = load_settings({}, {})
    assert (plain.warnings, plain.node.fanout) == ((), 3)


@pytest.mark.skipif(sys.platform == "win32", reason="no such files")
def test_what_is_called_env_and_is_no_file_is_passed_over() -> None:
    Path(".env").mkdir()
    assert load_settings({}, {}).warnings == ()
    Path(".env").rmdir()
    os.mkfifo(".env", 0o600)
    assert load_settings({}, {}).warnings == ()


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_an_env_file_that_others_can_change_is_rejected() -> None:
    write(".env", "FANOUT=4\n").chmod(0o666)
    assert "writable by others (mode 0666)" in refusal({})
    Path(".env").chmod(0o600)
    Path().chmod(0o777)
    assert "others can write to the directory" in refusal({})
    Path().chmod(0o1777)
    assert load_settings({}, {}).node.fanout == 4


def test_an_env_file_names_no_config_file_but_the_environment_may() -> None:
    path = write("gv.toml", "fanout = 4\n")
    write(".env", "GRAPEVINE_CONFIG=gv.toml\n")
    assert "GRAPEVINE_CONFIG is not read from a .env file" in refusal({})
    write(".env", "GRAPEVINE_CONFIG=\n")
    assert load_settings({}, {"GRAPEVINE_CONFIG": str(path)}).node.fanout == 4


def test_service_links_of_other_services_are_reported_in_one_line_and_ignored() -> None:
    links = {
        "BIND_PORT": "tcp://10.96.0.10:53",
        "GRAPEVINE_NAME": "/web/grapevine",
        "GRAPEVINE_PORT": "udp://10.96.0.11:8000",
        "GRAPEVINE_PORT_8000_UDP_ADDR": "10.96.0.11",
        "GRAPEVINE_SERVICE_HOST": "10.96.0.11",
        "GRAPEVINE_SERVICE_PORT_GOSSIP": "8000",
    }
    settings = load_settings({}, links)
    assert settings.node.bind == "127.0.0.1:8000"
    assert settings.node.name != "/web/grapevine"
    assert settings.warnings == (
        "BIND_PORT and 5 more in the environment is a service link of Kubernetes or Docker; ignored",
    )
    write(".env", "BIND_PORT=9000\n")
    assert load_settings({}, links).node.bind == "127.0.0.1:9000"
    assert "65535" in refusal({}, {"BIND_PORT": "tcp"})


def test_a_mistyped_variable_of_the_program_is_reported_but_not_fatal() -> None:
    settings = load_settings({}, {"GRAPEVINE_STRATGY": "epidemic", "GRAPEVINE_ZONE": "eu"})
    (warning,) = settings.warnings
    assert "GRAPEVINE_STRATGY" in warning
    assert "GRAPEVINE_STRATEGY?" in warning


@pytest.mark.parametrize(
    ("filters", "level"),
    [
        ("debug", "debug"),
        ("grapevine=debug,info", "info"),
        ("grapevine=debug", "debug"),
        ("grapevine=debug,other=trace", "debug"),
        ("WARN", "warn"),
        ("grapevine", ""),
        ("", ""),
        ("=,,=", ""),
    ],
)
def test_rust_log_is_understood_as_far_as_it_can_be(filters: str, level: str) -> None:
    assert rust_log_level(filters) == level
    assert load_settings({}, {"RUST_LOG": filters}).log_level == (level or "info")


def test_grapevine_log_comes_before_rust_log_wherever_each_is_set() -> None:
    assert load_settings({}, {"RUST_LOG": "debug", "GRAPEVINE_LOG": "warn"}).log_level == "warn"
    write(".env", "GRAPEVINE_LOG=error\n")
    assert load_settings({}, {"RUST_LOG": "debug"}).log_level == "error"
    assert load_settings({"app.log_level": "off"}, {"RUST_LOG": "debug"}).log_level == "off"


def test_state_is_kept_per_port_and_port_0_uses_the_first_free_directory(home: Path) -> None:
    root = home / "state" / "grapevine"
    assert load_settings({"port": "9001"}, {}).state_dir == root / "9001"
    settings = load_settings({"port": "0"}, {})
    assert settings.state_dir == root / "any-1"
    assert settings.spare_state_dirs[0] == root / "any-2"
    settings = load_settings({"port": "0", "app.state_dir": "here"}, {})
    assert settings.state_dir == Path("here")
    assert settings.spare_state_dirs == ()


def test_the_first_run_makes_a_key_that_only_its_owner_reads_and_the_next_finds_it() -> None:
    load_settings({}, {})
    assert not user_key_file().exists()  # looking at settings makes nothing
    (key,) = load_settings({}, {}).with_keys().node.keys
    assert user_key_file().stat().st_mode & 0o777 == 0o600
    assert user_key_file().parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in user_key_file().parent.iterdir()] == ["cluster.key"]
    assert load_settings({}, {}).with_keys().node.keys == (key,)


def test_key_files_are_loaded_in_their_order_and_a_flag_replaces_them_all(home: Path) -> None:
    keys = [ClusterKey.generate() for _ in range(3)]
    for number, key in enumerate(keys):
        key.save(home / f"{number}.key")
    write("gv.toml", 'key_files = ["../0.key"]\n')
    flags: dict[str, Any] = {"app.config": "gv.toml"}
    assert load_settings(flags, {}).with_keys().node.keys == (keys[0],)
    environ = {"GRAPEVINE_KEY_FILE": f"{home}/1.key{os.pathsep}{home}/2.key"}
    assert load_settings(flags, environ).with_keys().node.keys == (keys[1], keys[2])
    flags["key_files"] = (str(home / "2.key"), str(home / "0.key"))
    assert load_settings(flags, environ).with_keys().node.keys == (keys[2], keys[0])


def test_a_key_file_owned_by_others_is_rejected(home: Path) -> None:
    ClusterKey.generate().save(home / "c.key")
    (home / "c.key").chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_settings({"key_files": (str(home / "c.key"),)}, {}).with_keys()


def test_a_demo_changes_no_user_file() -> None:
    write("../config/grapevine/config.toml", 'bind = "0.0.0.0:8000"\nbootstrap_peers = ["a:1"]\n')
    settings = load_settings({"app.demo": True}, {"GRAPEVINE_STATE_DIR": "here"}).with_keys()
    assert settings.state_dir is None
    assert settings.node.bind == "127.0.0.1:0"
    assert settings.node.bootstrap_peers == ()
    assert len(settings.node.keys) == 1
    assert not user_key_file().exists()


def test_reloading_reads_the_files_again() -> None:
    path = write("gv.toml", "fanout = 4\n")
    settings = load_settings({"app.config": "gv.toml"}, {})
    path.write_text("fanout = 5\n", encoding="utf-8")
    assert settings.reload().node.fanout == 5
    assert settings.node.fanout == 4


@pytest.mark.parametrize("profile", list(PROFILES))
def test_the_settings_files_we_ship_are_right_and_come_to_their_profile(profile: str) -> None:
    path = ROOT / "config" / f"{profile}.toml"
    assert path.read_text(encoding="utf-8") == render(profile)
    expected = PROFILES[profile](bind=BIND_BY_PROFILE[profile])
    assert NodeConfig.from_toml(path) == expected
    settings = load_settings({"app.config": str(path)}, {})
    assert settings.profile == profile
    assert settings.node == expected.replace(name=settings.node.name)
    differs = {
        name
        for name, value in NodeConfig().settings().items()
        if expected.settings()[name] != value
    }
    there = tomllib.loads(render(profile))
    app = there.pop("app")
    names = {name for name, value in there.items() if not isinstance(value, dict)}
    for section, table in there.items():
        if isinstance(table, dict):
            names |= {f"{section}.{name}" for name in table}
    assert names == differs | {"bind"}  # and no default is kept for ever
    tables: dict[str, object] = {name.removeprefix("app."): {} for name in TABLE_SETTINGS}
    assert app == {"profile": profile, **tables}


@pytest.mark.parametrize("profile", list(PROFILES))
def test_no_setting_is_missing_in_the_files_we_ship_nor_without_its_reason(profile: str) -> None:
    shipped = (ROOT / "config" / f"{profile}.toml").read_text(encoding="utf-8")
    lines = [re.sub(r"^# (?=[a-z_]+ = \S)", "", line) for line in shipped.splitlines()]
    there = tomllib.loads("\n".join(lines))  # with what stands there as an example
    names = {name for name, value in there.items() if not isinstance(value, dict)}
    for section, table in there.items():
        if isinstance(table, dict):
            names |= {f"{section}.{name}" for name in table}
    assert names == set(FILE_SETTINGS)
    why = setting_help()
    assert set(why) == set(FILE_SETTINGS) - {"bind"} | {"host", "port"}
    assert all(len(expected_text.split()) > 3 for expected_text in why.values())


def test_the_example_env_file_names_every_variable_and_changes_nothing() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    for option in OPTIONS:
        assert not option.env or option.env in text
    assert "GRAPEVINE_CONFIG=" not in text
    plain = load_settings({}, {})
    write(".env", text)
    names = [name for name in dotenv_values(".env") if name != "RUST_LOG"]
    assert set(names) <= {option.env for option in OPTIONS}
    is_ours = load_settings({}, {})
    assert is_ours.node == plain.node
    assert is_ours.log_level == plain.log_level


def test_keys_are_read_from_the_file_and_a_wrong_one_is_reported_with_its_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[app]\ntheme = ""\n[app.keys]\npause = "?,f7"\nhelp = "J"\n')
    assert load_settings({"app.config": str(path)}, {}).keys == {
        "pause": "question_mark,f7",
        "help": "J",
    }
    path.write_text('[app.keys]\npuase = "o"\n')
    with pytest.raises(ConfigError) as caught:
        load_settings({"app.config": str(path)}, {})
    assert str(caught.value) == (
        f"app.keys.puase: unknown action; did you mean pause? ({path}, line 2)"
    )
    path.write_text('[app.keys]\npause = "q"\n')
    with pytest.raises(ConfigError) as caught:
        load_settings({"app.config": str(path)}, {})
    assert "'q' is already the key of quit" in str(caught.value)


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """An arbitrary user id in a container: not in the password file, and no variables."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.skipif(sys.platform == "win32", reason="there is always a home")
@pytest.mark.usefixtures("no_home")
def test_without_a_home_named_paths_work_and_one_line_names_what_is_missing() -> None:
    ClusterKey.generate().save("key")
    settings = load_settings({"app.state_dir": "here", "key_files": ("key",)}, {}).with_keys()
    assert settings.state_dir == Path("here")
    assert settings.preferences_file == Path("here/app.json")
    assert "no home directory; name a state directory: --state-dir" in refusal({})
    with pytest.raises(KeyFileError, match="no home directory; name one: --key-file"):
        load_settings({"app.state_dir": "here"}, {}).with_keys()
    with pytest.raises(ConfigError, match="no such user or home"):
        expand_user("app.state_dir", "~/here")


@pytest.mark.skipif(sys.platform != "linux", reason="XDG is Linux's")
@pytest.mark.parametrize("odd", ["", "relative", "./here", "~/.config"])
def test_a_relative_variable_of_xdg_counts_as_not_set(
    monkeypatch: pytest.MonkeyPatch, home: Path, odd: str
) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", odd)
    monkeypatch.setenv("XDG_STATE_HOME", odd)
    assert user_key_file() == home / ".config" / "grapevine" / "cluster.key"
    assert load_settings({}, {}).state_dir == home / ".local" / "state" / "grapevine" / "8000"
    monkeypatch.setenv("HOME", odd)
    assert user_key_file().is_absolute()
