#!/bin/sh
# A queue of tasks, most of them as badly behaved as agents come; its Processor is killed in the middle, and the
# next one finishes everything. Called by demo/run.sh, whose variables it uses. Exits 0 only if each task has
# ended as it had to.
set -eu

HERE=$REPO/demo/queue
FASTPROC_QUEUE=$WORK/queue
CGROUP=$("$FASTPROC" doctor --json | grep -q '"cgroup": true' && echo yes || echo no)
export FASTPROC_QUEUE CGROUP

# $1 seconds for a condition; what it says is shown if it does not come about.
wait_for() {
    end=$(($(date +%s) + $1)); shift
    until "$@"; do
        [ "$(date +%s)" -lt "$end" ] || { echo "it has not come about in time: $*"; exit 1; }
        sleep 0.1
    done
}

# Becomes the Processor. A rate limit pauses a queue for 5 minutes at least, unless it is told otherwise: here for
# 2 seconds.
work() {
    exec "$FASTPROC" queue run --agent-command "$PYTHON $HERE/agent.py -p --output-format stream-json \
        --max-turns {max_turns}" --max-turns 20 --recovery adopt --grace 500ms --retry-delay 300ms \
        --rate-limit-least 1s --rate-limit-most 2s \
        --inherit FASTPROC_DEMO --inherit WORK --inherit NAP --inherit REPO --inherit CGROUP "$@"
}

echo "== Tasks are queued, while nobody works on them yet"
"$FASTPROC" queue add --file "$HERE/tasks.jsonl" > "$WORK/ids"
"$FASTPROC" queue add --id later --title 'Not before a few seconds have passed' --not-before +6s -- date
"$FASTPROC" queue add --id cancelled --title 'Is cancelled while it runs' -- sleep "$NAP"
# What other programs may leave there: half a file, and a file that is small until it is read.
printf 'args: [echo, "tor' > "$FASTPROC_QUEUE/pending/torn.yaml"
{
    echo 'a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]'
    for pair in ab bc cd de ef fg gh; do
        one=${pair%?} two=${pair#?}
        echo "$two: &$two [*$one, *$one, *$one, *$one, *$one, *$one, *$one, *$one, *$one]"
    done
} > "$FASTPROC_QUEUE/pending/bomb.yaml"
"$FASTPROC" queue status

echo
echo "== A Processor begins, and is killed by SIGKILL in the middle"
# Without a live view, which would leave the terminal as it is when it is killed.
TERM=dumb work --slots 4 2>&1 &
processor=$!
wait_for 30 test -s "$FASTPROC_QUEUE/logs/ignores-SIGTERM.1.log"
for name in survives hangs-at-the-crash streams; do
    wait_for 30 test -s "$FASTPROC_QUEUE/logs/$name.1.log"
done
kill -KILL "$processor"
wait "$processor" 2> "$WORK/wait" || true
echo "killed"
"$FASTPROC" queue status

echo
echo "== The next one adopts what still runs, and finishes everything"
restarted=$(date +%s.%N)
# A task is cancelled from another process as soon as it runs.
(
    wait_for 60 test -e "$FASTPROC_QUEUE/logs/cancelled.1.log"
    "$FASTPROC" queue cancel cancelled > "$WORK/cancel"
) &
canceller=$!
code=0
(work --slots 6 --until-empty) 2>&1 || code=$?
wait "$canceller"
echo "exit code $code: so many tasks have failed"

echo
echo "== What a task has printed, and what came of it"
"$FASTPROC" queue logs --lines 4 streams
"$FASTPROC" queue show hangs

echo
echo "== Did each end as it had to?"
"$PYTHON" "$HERE/check.py" "$FASTPROC_QUEUE" "$HERE/expected.txt" "$WORK" "$restarted" "$code"
