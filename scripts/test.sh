#!/usr/bin/env bash
# Runs the whole test suite with the race detector, except for what links the SQL parser: that is a large C library, which
# the race detector cannot see into and would have compiled a second time.
#
#   scripts/test.sh         everything
#   scripts/test.sh short   everything but the parser's packages, in short form, without the race detector
#   scripts/test.sh race    everything, the parser's packages with the race detector as well
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-all}
parser=github.com/pganalyze/pg_query_go/v6

# The packages that link the parser, themselves or in their tests, as the build itself sees it.
all=$(go list -e ./... | sort -u)
with_parser=$(go list -e -test -f "{{range .Deps}}{{if eq . \"$parser\"}}{{\$.ImportPath}}{{end}}{{end}}" ./... |
  sed 's/ .*//; s/\.test$//' | sort -u | comm -12 - <(printf '%s\n' "$all"))
without_parser=$(comm -23 <(printf '%s\n' "$all") <(printf '%s\n' "$with_parser"))

run() {
  local name=$1
  shift
  printf -- '--- %s: %d packages\n' "$name" "$(($# - $(count_flags "$@")))"
  go test -timeout 10m "$@"
}

count_flags() {
  local flags=0 arg
  for arg in "$@"; do
    case $arg in -*) flags=$((flags + 1)) ;; esac
  done
  echo "$flags"
}

# The words of these lists are import paths.
# shellcheck disable=SC2086
case $mode in
short) run 'in short' -short $without_parser ;;
race) run 'with -race' -race $all ;;
all)
  # Both parts are run also when the first one fails.
  failed=0
  run 'with -race' -race $without_parser || failed=1
  if [ -n "$with_parser" ]; then
    run 'without -race (they link the SQL parser)' $with_parser || failed=1
  fi
  exit "$failed"
  ;;
*)
  echo "usage: scripts/test.sh [short|race]" >&2
  exit 2
  ;;
esac
