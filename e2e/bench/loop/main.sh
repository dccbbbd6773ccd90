#!/usr/bin/env bash
# main.sh DIR COMMAND...: runs COMMAND, and creates DIR/main-terminated when it has ended.
dir=$1
shift
trap 'touch "$dir/main-terminated"' EXIT
trap 'kill -TERM "$child"' TERM
"$@" &
child=$!
wait "$child" # ends early at a SIGTERM
wait "$child"
