#!/usr/bin/env bash
# sidecar.sh DIR COMMAND...: runs COMMAND, and looks once a second whether main has ended, to stop COMMAND then.
dir=$1
shift
trap 'kill -TERM "$child"' TERM
"$@" &
child=$!
(until [ -e "$dir/main-terminated" ]; do sleep 1; done; kill -TERM "$child") &
wait "$child" # ends early at a SIGTERM
wait "$child"
