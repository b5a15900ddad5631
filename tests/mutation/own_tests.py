"""Which tests belong to which module of the core.

Invariants:
- The tests of ``grapevine_proto/a/b.py`` are ``tests/proto/a/test_b.py``.
- Where others test a module as well, or in its place, `BESIDE` names them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.sources import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORIES: Final = ("transport", "overlay", "wire", "crypto")
"""The directories of ``grapevine_proto`` whose modules are mutated."""

HANDSHAKE: Final = ("transport/handshake/test_handshake", "transport/test_attacks")
SYNC: Final = ("overlay/sync/test_antientropy",)
CODEC: Final = ("wire/test_codec",)
LINK: Final = ("transport/link/test_link",)

BESIDE: Final[dict[str, tuple[str, ...]]] = {
    "overlay/broadcast/auto": (
        "overlay/broadcast/test_strategy",
        "overlay/broadcast/test_direct_mail",
    ),
    "overlay/broadcast/plumtree": ("overlay/broadcast/test_ihave",),
    "overlay/membership/membership": (
        "overlay/membership/test_membership_events",
        "overlay/membership/test_reachability",
        "overlay/membership/test_membership",
    ),
    "overlay/overlay": ("test_engine",),
    "overlay/state/keyed_state": ("overlay/state/test_departed_owners",),
    "overlay/state/early_entries": ("overlay/state/test_keyed_state",),
    "overlay/state/shared_map": ("overlay/state/test_keyed_state",),
    "overlay/store/sequence_tracker": ("overlay/store/test_message_store",),
    "overlay/topology/dialer": (
        "overlay/topology/test_dialer",
        "overlay/topology/test_hole_punching",
    ),
    "overlay/trace/trace": ("overlay/test_reverse_paths",),
    "overlay/swim/indirect_probes": ("overlay/swim/test_prober",),
    "overlay/swim/detector": ("overlay/swim/test_detector_events", "overlay/swim/test_detector"),
    "overlay/sync/gap_repair": SYNC,
    "overlay/sync/sync_round": SYNC,
    "transport/drop_counts": ("test_engine",),
    "transport/handshake/handshake_crypto": HANDSHAKE,
    "transport/handshake/initiator": HANDSHAKE,
    "transport/handshake/responder": HANDSHAKE,
    "transport/handshakes": ("transport/test_introducer", *HANDSHAKE),
    "transport/link/link": ("transport/link/test_path_validation",),
    "transport/link/path": ("transport/link/test_path_validation", *LINK),
    "transport/link/send_queues": (
        *LINK,
        "transport/link/test_fragments",
        "transport/link/test_reassembly",
    ),
    "transport/link/sender": (*LINK, "transport/link/test_congestion"),
    "transport/link/sent_packets": ("transport/link/test_recovery",),
    "transport/link_table": ("transport/test_transport", *LINK, "test_engine"),
    "transport/session/session": ("transport/session/test_sessions",),
    "transport/transport": (
        "transport/test_introducer",
        "transport/test_relay",
        "transport/test_transient_sessions",
        "test_engine",
        *HANDSHAKE,
    ),
    "wire/attributes": ("wire/test_message_codec",),
    "wire/entry_terms": ("overlay/state/test_owner_map",),
    "wire/fields": ("wire/test_message_codec", *CODEC),
    "wire/frames": CODEC,
    "wire/message_codec": CODEC,
    "wire/messages": CODEC,
    "wire/rumors": (*CODEC, "test_publisher"),
    "wire/signed": (*CODEC, "test_ids"),
    "wire/tracked_bytes": ("wire/test_rumors", *CODEC),
}
"""Module to the test files that test it besides the one of its own name, which comes first unless it is
among them: a mutant is found sooner if slow tests come last."""

DECLARATIONS: Final = frozenset({"overlay/effects", "transport/events"})
"""Modules that only declare types; `mypy` checks what they say."""


def modules() -> Iterator[str]:
    """Names of all mutated modules, such as ``overlay/peers``, in order."""
    package = ROOT / "grapevine_proto"
    for directory in DIRECTORIES:
        for path in sorted((package / directory).rglob("*.py")):
            name = path.relative_to(package).with_suffix("").as_posix()
            if path.stem != "__init__" and name not in DECLARATIONS:
                yield name


def own_tests(module: str) -> list[str]:
    """Paths of the test files of a module, relative to the checkout, in the order in which they run."""
    directory, _, stem = module.rpartition("/")
    own, beside = f"{directory}/test_{stem}", BESIDE.get(module, ())
    names = beside if own in beside else (own, *beside)
    paths = [f"tests/proto/{name}.py" for name in names]
    return [path for path in paths if (ROOT / path).exists()]
