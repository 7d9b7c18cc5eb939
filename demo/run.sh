#!/bin/sh
# The main jobs on real input: some 400 commands, most of them useful, the rest as badly behaved as programs
# come, in one batch; and a queue of tasks whose Processor is killed in the middle. Exits 0 only if every one
# has ended as it had to and nothing of them is left.
#
#   FASTPROC  the command to use (.venv/bin/fastproc of this repository)
#   JOBS      how many at a time (6)
set -eu

REPO=$(cd "$(dirname "$0")/.." && pwd)
FASTPROC=${FASTPROC:-$REPO/.venv/bin/fastproc}
PYTHON=${PYTHON:-$(dirname "$FASTPROC")/python3}
[ -x "$PYTHON" ] || PYTHON=$(command -v python3)
PYLIB=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
WORK=$(mktemp -d "${TMPDIR:-/tmp}/fastproc-demo-XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# What everything below carries in its environment, and every sleep in its arguments: by these the scan at the
# end knows what came from here.
NONCE=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
FASTPROC_DEMO=$NONCE
NAP=100.$NONCE
LC_ALL=C.UTF-8
export REPO FASTPROC PYTHON PYLIB WORK FASTPROC_DEMO NAP LC_ALL
mkdir "$WORK/files"
cd "$WORK/files"
ulimit -c 0

echo "== The list"
"$PYTHON" "$REPO/demo/prepare.py" "$REPO/demo/commands.txt" "$WORK/list"

echo
echo "== The scan for leftovers, tried on one that is there"
sleep "$NAP" &
if "$PYTHON" "$REPO/demo/leftovers.py"; then
    echo "The scan does not see what it is there to see: it would prove nothing."
    exit 1
fi
kill $! && wait $! 2> "$WORK/wait" || true

echo
echo "== The batch"
status=0
"$FASTPROC" batch --jobs "${JOBS:-6}" --timeout 60s --idle-timeout 30s --grace 500ms --output discard \
    --joblog "$WORK/joblog" "$WORK/list" 2>&1 || status=$?
echo "exit code $status"

echo
echo "== Did each end as it had to?"
verdict=0
"$PYTHON" "$REPO/demo/check.py" "$WORK/list" "$WORK/joblog" "$REPO/demo/expected.txt" "$status" || verdict=1

echo
"$REPO/demo/queue/run.sh" || verdict=1

echo
echo "== Is anything left of the batch or of the queue? A scan of /proc from outside"
"$PYTHON" "$REPO/demo/leftovers.py" || verdict=1

echo
[ "$verdict" -eq 0 ] && echo "All as it should be." || echo "NOT as it should be: see above."
exit "$verdict"
