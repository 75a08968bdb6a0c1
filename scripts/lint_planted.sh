#!/usr/bin/env bash
# Checks that the linter's walls stand: plants breaches into a copy of the module, and fails unless each is reported.
# A pattern in .golangci.yml that matches no file would otherwise pass for clean code.
set -euo pipefail
cd "$(dirname "$0")/.."

linter=$PWD/bin/golangci-lint
copy=$(mktemp -d "${TMPDIR:-/tmp}/freshet-lint-XXXXXX")
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 tar -cf - | tar -xf - -C "$copy"
cd "$copy"

module=github.com/freshet/freshet
expected=()

# plant takes a file, its package, an import, and the words of the report that is to come.
plant() {
  mkdir -p "$(dirname "$1")"
  printf 'package %s\n\nimport _ "%s"\n' "$2" "$3" >"$1"
  expected+=("$1:.*$4.*(depguard)")
}

plant breach_parser.go freshet "$module/internal/plan" 'the library must not pull in the SQL parser'
plant mvcc/breach.go mvcc os 'pure packages do no I/O'
plant internal/fence/breach.go fence context 'pure packages do not block'
plant internal/route/breach.go route golang.org/x/sync/errgroup "not allowed from list 'pure'"
plant internal/change/breach.go change log/slog 'values do not log'
plant internal/watermark/breach_log.go watermark log 'use the injected'
plant internal/apply/breach.go apply testing 'no test code in the binary'

cat >internal/keytext/breach.go <<'GO'
package keytext

import "time"

func breach() { time.Sleep(time.Second) }
GO
expected+=('internal/keytext/breach.go:.*time.Sleep.*(forbidigo)')

# It has to find something; what, is looked at below.
reports=$("$linter" run --allow-parallel-runners --enable-only depguard,forbidigo --show-stats=false --output.text.print-issued-lines=false \
  . ./mvcc ./internal/{apply,change,fence,keytext,route,watermark} 2>&1 || true)

failed=0
for pattern in "${expected[@]}"; do
  if ! grep -q -- "$pattern" <<<"$reports"; then
    echo "planted breach not reported: $pattern"
    failed=1
  fi
done
if [ "$failed" -ne 0 ]; then
  printf 'the linter said:\n%s\n' "$reports"
  exit 1
fi
echo "lint: ${#expected[@]} planted breaches were all reported"
