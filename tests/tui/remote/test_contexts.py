"""contexts.toml: what it may say, what is said of mistakes, and what stands in for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from grapevine_proto.errors import ConfigError
from grapevine_tui.control.target import LocalTarget, SshTarget
from grapevine_tui.remote import contexts
from grapevine_tui.remote.contexts import (
    Context,
    all_contexts,
    find_context,
    read_contexts,
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the contexts.toml of a user who has none yet, and no nodes."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config" / "grapevine").mkdir(parents=True)
    return tmp_path / "config" / "grapevine" / "contexts.toml"


def test_contexts_are_read_in_their_order(config: Path, tmp_path: Path) -> None:
    config.write_text(
        '[staging]\nstate_dir = "~/grapevine"\n'
        '[eu]\nssh = "ops@eu-1"\nreadonly = true\n'
        "[us.east]\n".replace("us.east", '"us.east"')
        + 'ssh = "us-1"\nstate_dir = "/srv/grapevine"\nprogram = "/opt/bin/grapevine-tui"\n'
    )
    assert all_contexts() == [
        Context("staging", LocalTarget(tmp_path / "grapevine")),
        Context("eu", SshTarget("ops@eu-1", is_readonly=True)),
        Context("us.east", SshTarget("us-1", "/srv/grapevine", "/opt/bin/grapevine-tui")),
    ]
    assert [each.place for each in all_contexts()][1:] == ["ssh ops@eu-1", "ssh us-1"]
    assert find_context("eu").is_readonly
    assert find_context("staging").as_readonly().is_readonly


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[a]\n", "a.state_dir: expected state_dir or ssh (PLACE, line 1)"),
        ("", "contexts: PLACE: names no context; a context is a section, [NAME]"),
        ("a = 1\n", "a: expected a section, [a], not a value (PLACE, line 1)"),
        ('[a]\nhost = "x"\n', "a.host: unknown setting; expected state_dir, ssh, program, readonly"),
        ('[a]\nread_only = true\n', "a.read_only: unknown setting; did you mean readonly? (PLACE, line 2)"),
        ('[a]\nssh = "b"\nreadonly = "yes"\n', "a.readonly: expected true or false, got 'yes'"),
        ('[a]\nssh = "-oProxyCommand=id"\n', "a.ssh: expected a host name, got '-oProxyCommand=id'"),
        ('[a]\nstate_dir = "x"\n', "a.state_dir: expected an absolute path, got 'x' (PLACE, line 1)"),
        ('[a]\nstate_dir = "/x"\nprogram = "y"\n', "a.program: belongs to ssh"),
        ('["-a"]\nssh = "b"\n', "-a: a name of a context is 1 to 64 letters"),
        ("[a\n", "config: PLACE: not TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(config: Path, text: str, error: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_contexts(config)
    assert str(raised.value).startswith(error.replace("PLACE", str(config)))


def test_a_file_that_others_can_write_is_not_read(config: Path) -> None:
    config.write_text('[a]\nssh = "b"\n')
    config.chmod(0o666)
    with pytest.raises(ConfigError, match=r"contexts.toml: "):
        all_contexts()


def test_without_a_file_contexts_are_the_nodes_that_run_here(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all_contexts() == []
    with pytest.raises(ConfigError, match=r"there is no contexts\.toml, and no node of yours runs"):
        find_context("eu")
    here = tmp_path / "state" / "grapevine" / "8000"
    monkeypatch.setattr(contexts, "running_state_dirs", lambda: [here])
    assert all_contexts() == [Context("8000", LocalTarget(here))]
    config.write_text('[production]\nssh = "web-1"\n')
    assert [each.name for each in all_contexts()] == ["production"]
    assert find_context("8000").target == LocalTarget(here)  # still found by its name
    with pytest.raises(ConfigError, match="'prodction'; did you mean production"):
        find_context("prodction")
    with pytest.raises(ConfigError, match="there are production, 8000"):
        find_context("zz")
