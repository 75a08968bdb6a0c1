#!/usr/bin/env bash
# Checks format, vet, linters and go.mod of each module given, and that the library compiles for other systems; says everything that it
# finds before it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

top=$PWD
linter=$top/bin/golangci-lint
failed=0

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
  printf 'gofmt: %s\n' "$unformatted"
  failed=1
fi
for module in "$@"; do
  echo "lint: module $module"
  cd "$top/$module"
  go vet ./... || failed=1
  "$linter" run --allow-parallel-runners ./... || failed=1
  go mod tidy -diff || failed=1
done
# What an application links has to compile where the daemon's parser, which is C, and its tests do not run.
for target in linux/arm64 darwin/arm64 windows/amd64; do
  echo "lint: the library for $target"
  (cd "$top" && CGO_ENABLED=0 GOOS=${target%/*} GOARCH=${target#*/} go build . ./freshetmsgpack ./freshetotel ./freshetprom ./freshetproto ./freshettest) || failed=1
done
"$top/scripts/lint_planted.sh" || failed=1
exit "$failed"
