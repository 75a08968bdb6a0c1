# Two commands for a fresh machine with Go, a C compiler and git: make demo, make test.

SHELL := /bin/bash
.DEFAULT_GOAL := help

GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := $(CURDIR)/bin/golangci-lint

DEMO_ARGS ?=
SOUNDNESS_TIME ?= 180s
CHAOS_TIME ?= 120s
CLUSTER ?=
FUZZ_TIME ?= 30s
SEED ?=
export SOUNDNESS_TIME CHAOS_TIME FUZZ_TIME SEED

# The modules of this repository; those of benchmarks and examples keep their dependencies out of the library's.
MODULES := . $(patsubst %/go.mod,%,$(wildcard bench/go.mod examples/go.mod))

.PHONY: help
help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z\/-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: install-servers build ## run the demo against real servers (DEMO_ARGS='--once --json')
	@exec ./bin/freshet demo $(DEMO_ARGS)

.PHONY: build
build: ## build ./bin/freshet
	@test -x bin/freshet || echo 'build: the SQL parser is a C library, the first build takes some minutes' >&2
	@go build -o bin/freshet ./cmd/freshet

.PHONY: install-servers
install-servers: ## install PostgreSQL and Redis when they are missing
	@./scripts/servers.sh

.PHONY: install-test-servers
install-test-servers: ## install what only tests and benchmarks need as well: PgBouncer, wrk, Chromium
	@./scripts/servers.sh tests

.PHONY: test
test: install-test-servers ## run the whole test suite against real servers
	@./scripts/test.sh
	@cd bench && go test ./...
	@cd examples && go test ./...

.PHONY: test/short
test/short: install-test-servers ## run the quick tests
	@./scripts/test.sh short

.PHONY: test/race
test/race: install-test-servers ## run everything with the race detector, also what links the SQL parser
	@./scripts/test.sh race

.PHONY: tools
tools: ## install the linter into ./bin
	@go version -m $(GOLANGCI_LINT) 2>/dev/null | grep -q 'golangci-lint/v2[[:space:]]*$(GOLANGCI_LINT_VERSION)' || { \
		echo 'tools: building golangci-lint $(GOLANGCI_LINT_VERSION), which takes some minutes' >&2; \
		GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION); }

.PHONY: fmt
fmt: tools ## format the code
	@for module in $(MODULES); do (cd $$module && $(GOLANGCI_LINT) fmt) || exit 1; done

.PHONY: lint
lint: tools ## check format, vet, linters and that go.mod is tidy
	@./scripts/lint.sh $(MODULES)

.PHONY: generate
generate: ## write the generated files again
	@go generate ./...

.PHONY: verify
verify: generate fmt ## fail when generated files, format or go.mod differ from what is committed
	@for module in $(MODULES); do (cd $$module && go mod tidy) || exit 1; done
	@git diff --exit-code

.PHONY: bench
bench: install-test-servers ## measure, as ratios against floors and peers
	@cd bench && go run . -samples samples.txt

.PHONY: benchstat
benchstat: ## compare what the last make bench measured, part by part, with medians and how sure they are
	@cd bench && for part in Hit L1 Demand Revalidate Many Gateway Stampede Tags; do \
		grep -q "^Benchmark$$part/" samples.txt && go tool benchstat -filter .name:$$part -col /by samples.txt; done; true

.PHONY: spec
spec: ## explore the protocol's model further than make test does
	@SPEC=deep ./scripts/named_tests.sh spec ./spec/...

.PHONY: soundness
soundness: install-servers ## random writes against random queries (SOUNDNESS_TIME=180s SEED=)
	@SOUNDNESS=long ./scripts/named_tests.sh soundness -run . -parallel 6 ./test/soundness

.PHONY: chaos
chaos: install-servers ## faults under load (CHAOS_TIME=120s SEED= CLUSTER=1: in a Redis Cluster): the tests in test/chaos
	@./scripts/named_tests.sh chaos -run . ./test/chaos -chaos.time=$(CHAOS_TIME) $(if $(CLUSTER),-chaos.cluster)

.PHONY: flood
flood: install-servers ## read a hundred thousand keys that are not there
	@FLOOD=long ./scripts/named_tests.sh flood -run TestNegativeFlood ./internal/fill

.PHONY: fuzz
fuzz: ## run every fuzz test (FUZZ_TIME=30s)
	@./scripts/fuzz.sh
