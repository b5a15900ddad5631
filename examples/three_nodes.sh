#!/bin/sh
# Three headless nodes: a key rotation under traffic, a killed node that is detected, a trace, metrics, leave.
#   examples/three_nodes.sh [FIRST_PORT]     $GRAPEVINE: the program, if not grapevine-tui on the PATH
set -eu
port=${1:-8000}; gv=${GRAPEVINE:-grapevine-tui}; cd "$(mktemp -d)"
ctl() { node=$1; shift; $gv ctl --state-dir "n$node" "$@"; }
shows() { ctl "$1" "$2" --json 2>/dev/null | grep -q "$3"; }  # node, ctl command, expected text
wait_until() { for _ in $(seq 200); do "$@" && return; sleep 0.1; done; echo "timeout: $*" >&2; exit 1; }
use_keys() {  # key files, and the fingerprints each node reports once it has loaded them
  echo "key_files = [$1]" > node.toml; kill -HUP $pids
  for n in 0 1 2; do wait_until shows $n status "\"keys\": \[$2\]"; ctl $n broadcast "node $n has $2"; done; }

old=$($gv keygen old.key | cut -d' ' -f4); new=$($gv keygen new.key | cut -d' ' -f4); pids=
echo 'key_files = ["old.key"]' > node.toml; trap 'kill $pids 2>/dev/null || :' EXIT
for n in 0 1 2; do
  $gv --headless -c node.toml -p $((port + n)) -b 127.0.0.1:$port --state-dir n$n --name node-$n \
    --metrics 127.0.0.1:$((port + n)) </dev/null >n$n.jsonl & pids="$pids $!"; done
for n in 0 1 2; do wait_until shows $n status '"peers": 2'; done
use_keys '"old.key", "new.key"' "\"$old\", \"$new\""  # 1. distribute: all nodes accept both
use_keys '"new.key", "old.key"' "\"$new\", \"$old\""  # 2. switch: the new key initiates
use_keys '"new.key"' "\"$new\""                       # 3. revoke: only the new key is accepted
for n in 0 1 2; do wait_until shows $n status '"peers": 2'; done
kill -9 "${pids##* }"; wait_until shows 0 members '"status": "down"'; ctl 0 members
ctl 0 trace "who is still here?"
curl -fsS "http://127.0.0.1:$port/metrics" | grep -E '^grapevine_(members|messages_total)'
ctl 1 leave; ctl 0 leave; grep -c '"event":"message"' n0.jsonl
