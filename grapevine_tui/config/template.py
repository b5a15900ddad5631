"""Renders a config file with every setting and its explanation, for each profile.

Invariants: a rendered file is valid and yields exactly the values of its profile; the files in ``config/``
are these, to the byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set
from string import Template
from typing import Any, Final

from grapevine_proto.config.node import NodeConfig
from grapevine_tui.config.options import PROFILES

BIND_BY_PROFILE: Final = {"local": "127.0.0.1:8000", "lan": "0.0.0.0:8000", "wan": "0.0.0.0:8000"}
PROFILE_SUMMARIES: Final = {
    "local": "for nodes on one machine: short timeouts, because loss is rare and round trips are short",
    "lan": "for one site: the defaults",
    "wan": "for several sites: longer timeouts, so that a slow path does not count as a failure",
}

_TEMPLATE: Final = Template("""\
# Grapevine, profile $profile: $about.
#
# grapevine-tui --config FILE uses this file; grapevine-tui config check FILE validates it.
# It contains every setting. A setting after a # has its default, which a later version may improve; remove
# the # to set it. The others make up this profile. Options, environment variables and .env override this
# file. Times are in seconds, sizes in bytes.

# Listen address, "host:port". Port 0 picks a free one. 0.0.0.0 and [::] listen on every interface. Programs
# that use the library may also give a range, "host:first-last", of which the first free port is taken.
bind = $bind

# Address advertised to peers, if it is not the bound one: behind NAT, in containers, and on a machine
# with several addresses that listens on every interface. Empty: the bound one.
advertise = $advertise

# Peers to contact at startup, "host:port" each, or "host:first-last" for up to 64 ports. One that answers is
# enough: the node discovers the others through it. Names are resolved again for every attempt. List two or
# three to survive the loss of one. "@FILE" stands for the peers in a file, one per line, which is read again
# when it changes; "srv+NAME" for the SRV records of a DNS name (needs the extra dns).
bootstrap_peers = $bootstrap_peers

# Cluster key files, relative to this file. Anyone who holds a key can join. The first key initiates
# handshakes, all are accepted, so a key can be rotated without losing connections. Unset: the user's own
# key, created at the first start. This file never contains a key.
# key_files = ["cluster.key"]

# Name of the cluster, part of every signature. Separates two clusters that share a key by mistake.
cluster = $cluster

# Display name and location label ("eu-west") of this node. Neither is unique or trusted. An unset name is
# the host name.
# name = "ams-1"
zone = $zone

# How broadcasts spread. auto: direct-mail while all members are connected and the message is small, otherwise
# plumtree. direct-mail: from the origin to every member, one hop. plumtree: along a spanning tree, one copy
# per node. flood: to all subscribers. epidemic: each node relays to a few random peers. Can be changed at
# run time without losing messages.
strategy = $strategy

# Under flood, the peers a node receives from: the copies it gets of each message.
subscriptions = $subscriptions

# Lazy push: send the ID of a message to peers that did not get its payload, and request announced messages.
# Closes gaps within a fraction of a second, for one small packet per link.
lazy_push = $lazy_push

# Pass datagrams on between two peers that cannot reach each other, within fixed limits: 256 KiB per second
# and peer, 2 MiB in all. They are encrypted from end to end.
relay = $relay

# Whether the home router is asked to map a port to this node, so that everyone can dial it. auto: by PCP or
# NAT-PMP, else by UPnP (needs the extra nat). The router learns that a node runs here. No effect with
# advertise.
port_mapping = $port_mapping

# In a cluster larger than max_peers, replace distant links with nearer ones: messages arrive sooner after a
# minute or two. For sites far apart; it has no effect on a single network.
optimize_links = $optimize_links

# Which peers a node connects and relays to. uniform: regardless of zone. hub-and-spoke: one in each other
# zone, the rest in its own. prefer-local, prefer-remote: twice as often in its own zone, or in others.
distribution = $distribution

# Time between heartbeats. Shorter detects failures sooner and costs two small packets per peer.
gossip_interval = $gossip_interval

# Under epidemic, peers each message is relayed to. Higher is faster and costs more traffic; 3 reaches most
# nodes, lazy push and repair the rest.
fanout = $fanout

# Maximum peer connections, up to limits.sessions. Each costs a heartbeat per interval.
max_peers = $max_peers

# Maximum size of one payload. A larger one is rejected.
max_message_size = $max_message_size

# Silence after which a peer is disconnected: six heartbeats, so five may be lost in a row. [detection]
# reports a failure earlier. At least two gossip intervals.
peer_timeout = $peer_timeout

# How long a member that is down is listed and dialed again. Shorter removes containers that never return
# sooner.
reconnect_timeout = $reconnect_timeout

# How long a member that left is listed, and how long old records cannot restore a removed member. Must be
# longer than a node may be away.
tombstone_timeout = $tombstone_timeout

# How long a dial may take.
connection_timeout = $connection_timeout

# How long a message is cached for repair, and the maximum age at which one is accepted. Longer bridges
# longer partitions and uses more memory (limits.cache_bytes).
message_dedup_ttl = $message_dedup_ttl

# How long a payload may wait for others to share its signature, and how many bytes share one. 0 seconds:
# until the event loop comes around, so a single payload does not wait. 1 byte: one signature per payload.
# Peers may acknowledge such messages up to twice the delay later, to save datagrams.
batch_delay = $batch_delay
batch_bytes = $batch_bytes

# Patterns of the topics whose messages this node delivers: "deploy.*.eu" (any one part), "deploy.>" (all that
# follows). Messages without a topic are always delivered, and every node relays every topic. []: only topics
# that a program subscribes to.
topics = $topics

# Tags with which this node describes itself, "name=value" each, for other members to see and to select by.
# At most 16; a name has at most 32 bytes, a value 128, all together 1,024.
tags = $tags

# How long leaving may take: to send what is queued, and for message handlers to finish. A signal ends the
# app sooner.
leave_timeout = $leave_timeout

# How long an ordered reader waits for a missing message before it skips it. Only programs that use the
# library have such readers.
order_wait = $order_wait

# Whether this node answers the queries of other members for grapevine.version, grapevine.keys,
# grapevine.links, grapevine.stats and grapevine.has.
builtin_queries = $builtin_queries

# Peer IDs that may not connect, 64 hex digits each. Identities are free: to exclude a person, rotate the
# cluster key.
denied = $denied

[anti_entropy]
# Anti-entropy rounds, which repair what broadcast missed. Without them a lost message stays lost.
enabled = $anti_entropy_enabled
# Time between rounds. Shorter repairs a loss sooner; a round between equal nodes is one small datagram.
interval = $anti_entropy_interval
# Peers per round. It is unlikely that three random peers all lack the same message.
fanout = $anti_entropy_fanout

[detection]
# Failure detection (SWIM with Lifeguard's timeouts). How long to wait for a ping reply, and beyond an overdue
# heartbeat before the first ping. Longer tolerates slower nodes and detects failures later.
probe_timeout = $detection_probe_timeout
# Time between pings of a suspect.
probe_interval = $detection_probe_interval
# Peers asked for an indirect probe each time.
indirect_probes = $detection_indirect_probes
# Suspicion timeout once three members suspect, times log10 of the number of members (at least 1); and the
# factor on it while only one member suspects.
suspicion_timeout = $detection_suspicion_timeout
suspicion_max_factor = $detection_suspicion_max_factor

[epidemic]
# Probability that a node relays a new message. Lower sends fewer copies and reaches fewer nodes at once.
forward_probability = $epidemic_forward_probability
# Copies of one message that one node sends in total, while no copy comes back.
max_forwards = $epidemic_max_forwards
# Maximum hops of a push. 10 suits up to 500 nodes; repair is not limited by it.
hops = $epidemic_hops

[rate_limit]
# Inbound rate limit of each peer. It is advertised, and peers that follow the protocol stay within it.
enabled = $rate_limit_enabled
# Burst a peer may send at once, in messages.
capacity = $rate_limit_capacity
# Messages per second after that.
refill_rate = $rate_limit_refill_rate

[congestion]
# Send rate of each link: it grows until a queue builds up on the path, then shrinks. Defaults suit any path.
# Packets in the first round trip.
initial_packets = $congestion_initial_packets
# Factor on the rate when a queue builds up. Lower drains it sooner; higher uses the path better.
decrease_factor = $congestion_decrease_factor
# Queueing delay that does not count as congestion, in seconds and as a share of the round-trip time; the
# larger applies.
max_queue_delay = $congestion_max_queue_delay
max_queue_delay_fraction = $congestion_max_queue_delay_fraction
# Window for the minimum round-trip time and loss of a path, in seconds.
min_rtt_window = $congestion_min_rtt_window
# Maximum bytes per second to one peer, and maximum unacknowledged bytes to it.
max_rate = $congestion_max_rate
in_flight_bytes = $congestion_in_flight_bytes

[state]
# Keyed state: how long a deleted key is remembered, at least. Longer takes memory. A node that was away for
# longer receives the whole map of the owner.
tombstone = $state_tombstone
# How long the entries of a member that is down or left are kept. At half of that another member adopts
# durable ones.
keep = $state_keep

[limits]
# Limits of everything that remote nodes can make grow. Reaching one is counted and never fatal.
# Peers with a session, links and transient ones: 16 KB each while idle.
sessions = $limits_sessions
# Transient sessions among those, for direct messages and repair; closed after 10 s idle.
transient_sessions = $limits_transient_sessions
# Handshakes in progress that this node initiated.
dials = $limits_dials
# Accepted handshakes remembered for 240 s against replay.
accepted_proofs = $limits_accepted_proofs
# Rate-limit buckets for first packets, by a keyed hash of the source address.
handshake_buckets = $limits_handshake_buckets
# Challenges per second to unauthenticated peers in total: two hashes each, so a flood costs 1% of a core.
challenges_per_second = $limits_challenges_per_second
# Known members, 800 bytes each; a node works with a part of a larger cluster.
members = $limits_members
# Advertised addresses that were not reached yet, in total and from one member.
addresses = $limits_addresses
addresses_per_source = $limits_addresses_per_source
# Origins whose latest two streams are tracked. Once three quarters are in use, a link that introduces more
# than new_origins_per_link origins that are not known members replaces its own.
origins = $limits_origins
new_origins_per_link = $limits_new_origins_per_link
# Tracked gaps in one origin's messages; beyond that the oldest is abandoned and counted as lost.
gaps = $limits_gaps
# Bytes of messages cached for repair; one origin may use a quarter.
cache_bytes = $limits_cache_bytes
# Events queued for a slow application, and their bytes. Beyond them the oldest are dropped.
events = $limits_events
event_bytes = $limits_event_bytes
# Messages and bytes queued for one peer. Beyond them, messages are left to repair.
queue_messages = $limits_queue_messages
queue_bytes = $limits_queue_bytes
# Bytes of incomplete large messages from all peers together.
reassembly_bytes = $limits_reassembly_bytes
# Members whose entries are kept, and the bytes of these entries, each counted with 1 KiB more. Entries of
# members that are not up are evicted first; then new ones are refused.
state_owners = $limits_state_owners
state_bytes = $limits_state_bytes

[app]
# local, lan or wan: supplies every setting that is not set in this file.
profile = "$profile"
# error, warn, info, debug, trace or off.
log_level = "info"
# Log file. Unset: the app logs into its state directory, headless to stderr.
# log_file = "grapevine.log"
# Directory for identity and delivery state. Unset: one directory per port in the user's state directory.
# state_dir = "state"
# Serve Prometheus metrics at this "host:port"; empty: off. They expose names and addresses without
# authentication: use loopback or a trusted network.
metrics = ""
# Serve the app to a browser at this "host:port" instead of the terminal; empty: off. Anyone with the printed
# address controls the node: use loopback or a trusted network.
web = ""
# Sources of addresses, beside bootstrap_peers: "local" (the running nodes of this user on this machine) and
# "mdns" (nodes of the cluster on the same network; needs the extra mdns). Nodes find each other only if both
# have the source.
discover = []
# Programs to run, "EVENT COMMAND" each, with the event as JSON on stdin (no shell). At most four run at once,
# for at most ten seconds.
on = []
# Messages kept in the log on the screen. Evicted ones are counted.
messages = 10000
# What the node keeps in history.sqlite, in its state directory: "on" (messages and events), "events" (events
# with their reasons, no messages) or "off". The file has payloads in clear: protect it like the cluster key.
history = "on"
# Maximum size in bytes and age in days of the history. Beyond them the oldest rows are deleted; one author
# may use a quarter.
history_bytes = 1073741824
history_days = 30
# Whether the history keeps direct messages as well.
history_direct = false
# Color theme of the app; empty: its own.
theme = ""
# How the app alerts its operator to a warning: "off", "bell", or a desktop notification, "notify" (OSC 9)
# or "notify-777" (OSC 777).
alert = "off"
# Run without the app, with JSON Lines on stdin and stdout.
headless = false
# Headless: on end of stdin, "exit" (once a peer has acknowledged everything) or "stay".
on_eof = "stay"
# Headless: how long "exit" waits for that before it exits with 1.
eof_timeout = 10
# Headless: emit "ready" once this many peers are connected; 0: never.
wait_peers = 0

[app.keys]
# Keys of the app, action = "key,key" as in: pause = "o". docs/reference/keys.md lists the actions.

[app.alerts]
# Alerts, name = "rule" as in: few = "peers < 3 for 30s", or quiet = "no message from:web-1 for 5m".
# docs/reference/alerts.md lists the readings.

[app.commands]
# Programs to run on the selected row, as in: ping = { key = "alt+p", argv = ["ping", "-c3", "{host}"] }.
# docs/how-to/own-commands.md lists the placeholders.

[app.columns]
# Columns of the tables of peers and members, as in: peers = ["state", "peer", "rtt", "loss", "tag.role"].
# docs/how-to/choose-columns.md lists them. Fields of JSON messages, as in: messages = ["json:level"].

[app.filters]
# Saved filters of the messages, shown as tabs, as in: deploys = "topic:deploy.>", or bad = "error|panic".

[app.highlights]
# Messages and events that stand out, as in: panic = "style:bad error|panic".
# Styles: accent good warn bad dim.
""")


def render(profile: str) -> str:
    """Returns the config file of `profile`, a key of `PROFILES`."""
    config = PROFILES[profile](bind=BIND_BY_PROFILE[profile])
    values: dict[str, Any] = {
        name.replace(".", "_"): json.dumps(value, ensure_ascii=False)
        for name, value in config.settings().items()
    }
    return _with_defaults_as_comments(
        _TEMPLATE.substitute(values, profile=profile, about=PROFILE_SUMMARIES[profile]),
        {
            name
            for name, value in NodeConfig().settings().items()
            if config.settings()[name] != value
        },
    )


def _with_defaults_as_comments(text: str, profile_settings: Set[str]) -> str:
    """Returns `text` with a # before every setting that the profile does not change: a file that sets
    everything would pin the current defaults."""
    lines, section = [], ""
    for line in text.splitlines(keepends=True):
        if line.startswith("["):
            section = line.strip().strip("[]") + "."
        name = re.match(r"([a-z_]+) = ", line)
        is_set = name is not None and section + name[1] in profile_settings | {
            "bind",
            "app.profile",
        }
        lines.append(f"# {line}" if name is not None and not is_set else line)
    return "".join(lines)


def setting_help() -> dict[str, str]:
    """Returns the comment above each setting, by dotted name."""
    found: dict[str, str] = {}
    section, above, is_open = "", [""], False
    tables: dict[str, str] = {}  # sections that start empty
    for line in _TEMPLATE.template.splitlines():
        if line.startswith("["):
            section, above, is_open = line.strip("[]") + ".", [], False
            tables[line.strip("[]")] = ""
        elif match := re.fullmatch(r"(?:# )?([a-z_]+) = \S.*", line):
            found[section + match[1]] = " ".join(above).strip()
            tables.pop(section.rstrip("."), None)
            is_open = False
        elif line.startswith("#"):
            above = [*above, line[2:]] if is_open else [line[2:]]
            is_open = True
            if section.rstrip(".") in tables:
                tables[section.rstrip(".")] = " ".join(above)
        else:
            is_open = False
    found |= tables
    found["host"] = found["port"] = found.pop("bind")
    return found
