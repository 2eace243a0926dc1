#!/bin/sh
# Trains the adapter of this distribution anew, on the task's own sample data.
cd "$(dirname "$0")" || exit 1
adapt train --task topic --method ia3 --name topics --overwrite --run-dir "${TMPDIR:-/tmp}/topics-run" \
    --output src/adaptdock_topics/files/topics.safetensors
