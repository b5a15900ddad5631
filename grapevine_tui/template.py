"""A settings file with every setting in it and the reason for its value, for each profile.

What must stay true: a rendered file is valid and comes to its profile's own values; the files in
``config/`` are these, to the byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set
from string import Template
from typing import Any, Final

from grapevine_proto.config import NodeConfig
from grapevine_tui.options import PROFILES

BINDS: Final = {"local": "127.0.0.1:8000", "lan": "0.0.0.0:8000", "wan": "0.0.0.0:8000"}
ABOUT: Final = {
    "local": "for nodes of one machine: losses are rare and round trips short, so notice everything soon",
    "lan": "for one site: Grapevine's own figures, which are the defaults",
    "wan": "between sites: longer and rarer, so that a slow path is not taken for a dead one",
}

_TEXT: Final = Template("""\
# Grapevine, profile $profile: $about.
#
# grapevine-tui --config FILE uses this file; grapevine-tui config check FILE says whether it is right.
# Every setting is here. One behind a # has its default, which a later version may improve; take the # away
# to set it. The others are what makes this profile.
# Flags, environment variables and .env win over this file. Times are in seconds, sizes in bytes.

# Where to listen, "host:port". Port 0: any free one. 0.0.0.0 and [::] listen on every interface.
bind = $bind

# The address others should dial, where it is not the bound one: behind NAT, in containers, and
# where the node listens on every interface and they have several. Empty: the bound one.
advertise = $advertise

# Who to ask first, "host:port" each. One that answers is enough: it tells of the others. Names are
# resolved anew at every attempt, so a name may move. Two or three survive the loss of one.
bootstrap_peers = $bootstrap_peers

# Files with the cluster's keys, seen from this file's folder. Whoever has a key may join; the first
# starts handshakes, all are accepted, which is how a key is replaced without losing anybody.
# Unset: this user's own key, made at the first run. Keys themselves are never written in here.
# key_files = ["cluster.key"]

# Signed into everything, so that two clusters that share a key by mistake stay apart.
cluster = $cluster

# What people call this node, and where it stands ("eu-west"). Not unique, never trusted. An unset
# name is the machine's.
# name = "ams-1"
zone = $zone

# How messages spread. auto: direct-mail while all members are linked and the message is small, else
# plumtree. direct-mail: from the origin to every member, one hop. plumtree: along a tree that grows where
# messages arrive first, one copy a node. flood: to all who subscribed. epidemic: a node relays what is
# new to a few peers, with some probability. A running node changes it without losing anything.
strategy = $strategy

# Peers that a node picks to receive from under flood: the copies it gets of each message.
subscriptions = $subscriptions

# Tell linked peers that were not sent a message its id, and ask for what others tell of: closes within
# a fraction of a second what spreading leaves open, for one small packet a link.
lazy_repair = $lazy_repair

# In a cluster larger than max_peers, let far links go for near ones: messages arrive sooner once that has
# settled, after a minute or two. For places far apart; on one network nothing moves.
nearer_links = $nearer_links

# Which peers are chosen to link to and to relay to. uniform: any, all alike. hub-and-spoke: one in each
# other zone, the rest at home. prefer-local, prefer-remote: those at home, or elsewhere, twice as likely.
distribution = $distribution

# Between heartbeats. Shorter notices a death sooner and costs two small packets a peer.
gossip_interval = $gossip_interval

# Peers a message is relayed to at once under epidemic. More is quicker and dearer; three reach most,
# lazy repair the rest.
fanout = $fanout

# Links at most: each costs a heartbeat an interval. At most limits.sessions.
max_peers = $max_peers

# Of one payload. A larger one is refused whole.
max_message_size = $max_message_size

# Silence after which a peer is disconnected: six heartbeats, so that five lost in a row do no harm.
# Who is dead is known earlier ([detection]). At least two gossip intervals.
peer_timeout = $peer_timeout

# How long a member that is down is dialed again and listed. Shorter forgets containers that never
# return sooner.
reconnect_timeout = $reconnect_timeout

# How long a member that left is listed, and how long old records of a forgotten member do not bring
# it back. Longer than a node may be away.
tombstone_timeout = $tombstone_timeout

# How long to knock at an address before giving up for a while.
connection_timeout = $connection_timeout

# How long a message is held for those who missed it, and how old one may be to be taken at all.
# Longer bridges longer partitions and holds more in memory (limits.held_bytes).
message_dedup_ttl = $message_dedup_ttl

# How long a payload may wait for others to share its signature, and how many bytes of them share
# one. 0 seconds: until the loop comes round, so a payload alone waits for nothing. 1 byte: each
# payload has a signature of its own.
bundle_delay = $bundle_delay
bundle_bytes = $bundle_bytes

# Identities that are shut out, 64 hex digits each. Identities are free to make: against a person,
# replace the cluster key.
denied = $denied

[anti_entropy]
# Rounds that find and mend what spreading missed. Without them a lost message stays lost.
enabled = $anti_entropy_enabled
# Between rounds. Shorter finds a loss sooner; a round between two that agree is one small datagram.
interval = $anti_entropy_interval
# Peers a round: three independent partners make it unlikely that all miss the same message.
fanout = $anti_entropy_fanout

[detection]
# Of members that do not answer. How long to wait for an answer; a link that is silent for so much
# longer than it should be is probed. More is kinder to slow nodes and later with the dead.
probe_timeout = $detection_probe_timeout
# Between probes of a suspect: its chances to be heard.
probe_interval = $detection_probe_interval
# Peers asked to try as well, each time.
indirect_probes = $detection_indirect_probes
# What a suspect has to say that it lives, for every power of ten of members, where three suspect it;
# and how many times as long while only one does.
suspicion = $detection_suspicion
suspicion_max = $detection_suspicion_max

[epidemic]
# Chance that a node relays what it hears. Lower saves copies and reaches fewer nodes at once.
forward_probability = $epidemic_forward_probability
# Copies of one message that one node sends in all, while no copy of it has come back.
max_forwards = $epidemic_max_forwards
# Relays a message may pass. Ten is right below 500 nodes; repair is not limited by it.
hops = $epidemic_hops

[rate_limit]
# What each peer may send us. Honest nodes are told and slow down by themselves.
enabled = $rate_limit_enabled
# The burst a peer may send at once, in envelopes.
capacity = $rate_limit_capacity
# Envelopes a second after that.
refill_rate = $rate_limit_refill_rate

[congestion]
# How fast each link sends: up until a queue builds up on the path, then down. Made for any path.
# Packets in the first round trip.
initial_packets = $congestion_initial_packets
# What is left of the rate when a queue builds up. Less drains it sooner, more keeps the path busier.
decrease = $congestion_decrease
# Seconds of queueing that are none, and the same as a part of the round trip; the larger counts.
delay = $congestion_delay
delay_fraction = $congestion_delay_fraction
# Seconds for which the shortest round trip and the least loss of a path are remembered.
memory = $congestion_memory
# Bytes a second to one peer, and bytes on their way to it, at most.
max_rate = $congestion_max_rate
in_flight_bytes = $congestion_in_flight_bytes

[limits]
# Ceilings on everything that somebody else can make grow; meeting one is counted, never fatal.
# Peers with an encrypted session, links and short ones: 16 KB each while idle.
sessions = $limits_sessions
# Of those, with members that are no links: private words and repair, closed after 10 s idle.
short_sessions = $limits_short_sessions
# Handshakes that this node began and that are not done yet.
dials = $limits_dials
# Handshakes remembered for 240 s, so that a replay opens nothing.
accepted_proofs = $limits_accepted_proofs
# Buckets that strangers' first packets share, by a keyed hash of their address.
hello_buckets = $limits_hello_buckets
# Answers to strangers a second, in all: two hashes each, so a flood costs 1 % of a core.
challenges_per_second = $limits_challenges_per_second
# Members known, 800 bytes each; beyond it a node works on with a part of the cluster.
members = $limits_members
# Addresses heard of and not yet reached, and how many of those one member may tell.
addresses = $limits_addresses
addresses_per_teller = $limits_addresses_per_teller
# Origins whose messages are told apart, the last two runs of each. Once three quarters are taken, a link
# that brought more origins that are no known members than this replaces its own.
origins = $limits_origins
new_origins_per_link = $limits_new_origins_per_link
# Gaps remembered in one origin's messages; beyond it the oldest is given up, as lost.
holes = $limits_holes
# Payload bytes held for repair; one origin may take a quarter.
held_bytes = $limits_held_bytes
# Events waiting for a slow application, and bytes of payload in them; then the oldest go.
events = $limits_events
event_bytes = $limits_event_bytes
# Messages and bytes waiting for one peer; beyond it repair brings them.
queue_messages = $limits_queue_messages
queue_bytes = $limits_queue_bytes
# Bytes kept of large messages that have not come whole, of all peers together.
reassembly_bytes = $limits_reassembly_bytes

[app]
# local, lan or wan: what is not set in this file is taken from there.
profile = "$profile"
# error, warn, info, debug, trace or off.
log_level = "info"
# Log into this file. Unset: the app logs into its state folder, headless to stderr.
# log_file = "grapevine.log"
# Identity and what was seen are kept here. Unset: a folder per port in this user's state folder.
# state_dir = "state"
# Serve metrics for Prometheus at this "host:port"; empty: do not. They tell names and addresses, so
# loopback, or a network that may know.
metrics = ""
# Show the app in a browser at this "host:port" in place of the terminal; empty: do not. Whoever has the
# address that is printed then has the node, so loopback, or a network where nobody listens.
web = ""
# Programs to run, "EVENT COMMAND" each: they get the event as JSON on stdin, four at once and ten
# seconds at most. No shell is in between.
on = []
# Messages the log on the screen keeps; what it let go is counted.
messages = 10000
# The app's colours; empty: its own.
theme = ""
# How the app alerts its operator to a warning: "off", "bell" or "notify" (a desktop notification, OSC 9).
alert = "off"
# Without the app, JSON Lines on stdin and stdout.
headless = false
# Headless: whether the end of stdin means "exit" (once a peer has everything) or "stay".
on_eof = "stay"
# Headless: how long "exit" waits for a peer to take what was said, before it exits with 1.
eof_timeout = 10
# Headless: say "ready" once so many peers are connected; 0: do not.
wait_peers = 0

[app.keys]
# Keys of the app, action = "key,key" as in: pause = "o". docs/reference/keys.md lists the actions.
""")


def render(profile: str) -> str:
    """The settings file of `profile`, a key of `PROFILES`."""
    config = PROFILES[profile](bind=BINDS[profile])
    values: dict[str, Any] = {
        name.replace(".", "_"): json.dumps(value, ensure_ascii=False)
        for name, value in config.settings().items()
    }
    return _with_defaults_as_comments(
        _TEXT.substitute(values, profile=profile, about=ABOUT[profile]),
        {
            name
            for name, value in NodeConfig().settings().items()
            if config.settings()[name] != value
        },
    )


def _with_defaults_as_comments(text: str, own: Set[str]) -> str:
    """`text` with a # before every setting but those that are the profile's `own`: a file that sets
    everything would keep today's defaults for ever."""
    lines, section = [], ""
    for line in text.splitlines(keepends=True):
        if line.startswith("["):
            section = line.strip().strip("[]") + "."
        name = re.match(r"([a-z_]+) = ", line)
        is_set = name is not None and section + name[1] in own | {"bind", "app.profile"}
        lines.append(f"# {line}" if name is not None and not is_set else line)
    return "".join(lines)


def reasons() -> dict[str, str]:
    """What the file says above each setting, by dotted name."""
    found: dict[str, str] = {}
    section, above, is_open = "", [""], False
    for line in _TEXT.template.splitlines():
        if line.startswith("["):
            section, above, is_open = line.strip("[]") + ".", [], False
        elif match := re.fullmatch(r"(?:# )?([a-z_]+) = \S.*", line):
            found[section + match[1]] = " ".join(above).strip()
            is_open = False
        elif line.startswith("#"):
            above = [*above, line[2:]] if is_open else [line[2:]]
            is_open = True
        else:
            is_open = False
    found[section.rstrip(".")] = " ".join(above)  # the last one is a table that starts empty
    found["host"] = found["port"] = found.pop("bind")
    return found
