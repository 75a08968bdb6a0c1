#!/usr/bin/env bash
# Runs the tests that its arguments name, for as long as they take, and says the outcome in its last line. Fails also
# when they name no test: a long check that did not run is not a pass.
#
#   scripts/named_tests.sh NAME go-test-arguments...
set -euo pipefail
cd "$(dirname "$0")/.."

name=$1
shift
output=$(mktemp "${TMPDIR:-/tmp}/freshet-tests-XXXXXX")
trap 'rm -f "$output"' EXIT

begun=$SECONDS
outcome=passed
go test -count=1 -timeout 120m -v "$@" </dev/null 2>&1 | tee "$output" || outcome=FAILED
passed=$(grep -c '^--- PASS' "$output" || true)
if [ "$passed" -eq 0 ] && [ "$outcome" = passed ]; then
  outcome='FAILED: no test ran'
fi
echo "$name: $outcome, $passed tests passed, $((SECONDS - begun)) s${SEED:+, SEED=$SEED}"
[ "$outcome" = passed ]
