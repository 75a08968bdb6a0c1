#!/usr/bin/env bash
# Runs every fuzz test for FUZZ_TIME (default 30s), one after the other, and fails at the first that finds something.
set -euo pipefail
cd "$(dirname "$0")/.."

count=0
while IFS=: read -r file name; do
  package=./$(dirname "$file")
  echo "--- $package $name"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZ_TIME:-30s}" "$package"
  count=$((count + 1))
done < <(git ls-files '*_test.go' | xargs grep -o '^func Fuzz[A-Za-z0-9_]*' | sed 's/func //' | sort)

if [ "$count" -eq 0 ]; then
  echo 'fuzz: there is no fuzz test' >&2
  exit 1
fi
echo "fuzz: $count fuzz tests, nothing found"
