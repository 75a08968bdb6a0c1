#!/usr/bin/env bash
# Runs the whole test suite, with the race detector except for two kinds of package:
#   - what links the SQL parser: a large C library, which the race detector cannot see into and would have compiled a
#     second time;
#   - the protocol's model: one goroutine that explores millions of states.
#
#   scripts/test.sh         everything
#   scripts/test.sh short   everything but the parser's packages, in short form, without the race detector
#   scripts/test.sh race    everything with the race detector
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-all}
parser=github.com/pganalyze/pg_query_go/v6

all=$(go list -e ./... | sort -u)
# The packages that link the parser, themselves or in their tests, as the build itself sees it.
with_parser=$(go list -e -test -f "{{range .Deps}}{{if eq . \"$parser\"}}{{\$.ImportPath}}{{end}}{{end}}" ./... |
  sed 's/ .*//; s/\.test$//' | sort -u | comm -12 - <(printf '%s\n' "$all"))
without_parser=$(comm -23 <(printf '%s\n' "$all") <(printf '%s\n' "$with_parser"))
model=$(grep -E '/spec(/|$)' <<<"$without_parser" || true)
raced=$(grep -vE '/spec(/|$)' <<<"$without_parser")

run() {
  local begun=$SECONDS failed=0
  echo "--- $1"
  shift
  # go vet is make lint's.
  go test -vet=off -timeout 10m "$@" || failed=1
  echo "--- $((SECONDS - begun)) s"
  return "$failed"
}

# The words of these lists are import paths.
# shellcheck disable=SC2086
case $mode in
short) run 'in short form' -short $without_parser ;;
race) run 'everything with -race' -race $all ;;
all)
  # Some tests build the program: the C library behind it is compiled here, and not against their time limits.
  go build ./...
  # Both parts are run also when the first one fails. Tests mostly wait, for servers and for time to pass, so that two
  # processors can do more than two things.
  failed=0
  run 'with -race' -race -parallel 4 $raced || failed=1
  if [ -n "$with_parser$model" ]; then
    run 'without -race: the model, and what links the SQL parser' -p 3 -parallel 4 $model $with_parser || failed=1
  fi
  exit "$failed"
  ;;
*)
  echo "usage: scripts/test.sh [short|race]" >&2
  exit 2
  ;;
esac
