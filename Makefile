# make          says what there is
# make demo     builds the examples from nothing, and shows what a changed line costs
# make test     everything that can be tested on one machine
# Both install what they need beyond Go, git and make (scripts/setup.sh), so a fresh Debian machine will do.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX  ?= /usr/local
LDFLAGS := -s -w -X main.version=$(VERSION)
# The end-to-end tests mount, chroot and start containers.
ROOTLY  := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=CRASH_KILLS,CRASH_FAULTS,PATH,HOME,GOFLAGS,GOPROXY,GOMODCACHE,GOCACHE,STRATA_CACHE)
# Tools are run at a fixed version, outside of the module's own dependencies.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0
# What has goroutines and can run under the race detector without an engine.
RACE = $(shell go list . ./internal/... 2>/dev/null | grep -v -e /internal/buildkit -e /internal/cli)

.PHONY: help
help: ## This list
	@echo "Strata $(VERSION)"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install what building and testing need: Debian packages, an emulator for arm64
	@scripts/setup.sh

.PHONY: runc
runc: setup
	@scripts/runc.sh

.PHONY: build
build: runc ## bin/strata: one static binary, with runc inside
	CGO_ENABLED=0 go build -trimpath -tags embedrunc -ldflags '$(LDFLAGS)' -o bin/strata ./cmd/strata
	@ls -l bin/strata | awk '{ printf "bin/strata: %.1f MB\n", $$5 / 1e6 }'

.PHONY: demo
demo: build ## Build both examples from nothing, change a line, build again
	@scripts/demo.sh

.PHONY: test
test: build ## Every test, the end-to-end ones included (as root)
	$(ROOTLY) scripts/bases.sh
	$(ROOTLY) "$$(command -v go)" test -timeout 40m -tags embedrunc ./...
	$(ROOTLY) scripts/fuzz.sh 5s

FUZZTIME ?= 60s

.PHONY: fuzz
fuzz: ## Fuzz every target for a minute (FUZZTIME=10m: longer); for a nightly run
	$(ROOTLY) scripts/fuzz.sh $(FUZZTIME)

.PHONY: race
race: setup ## The tests that need no engine, under the race detector
	CGO_ENABLED=1 go test -race -timeout 30m $(RACE)

.PHONY: kills
kills: build ## 500 kills, and 50 rounds with a registry that fails, with a table of outcomes
	CRASH_KILLS=500 CRASH_FAULTS=50 $(ROOTLY) "$$(command -v go)" test -timeout 60m -tags embedrunc -count=1 -v ./test/crash

.PHONY: lint
lint: runc ## gofmt, go vet, staticcheck, shell syntax
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted: $$unformatted"; exit 1; fi
	go vet -tags embedrunc ./...
	go run $(STATICCHECK) -tags embedrunc ./...
	@for script in scripts/*.sh .ci/run; do bash -n "$$script"; done

.PHONY: vuln
vuln: runc ## Known vulnerabilities in what the binary links (needs Go's vulnerability database)
	go run $(GOVULNCHECK) -tags embedrunc ./...

.PHONY: bench
bench: build ## Strata beside buildx and crane: docs/benchmarks.md (an hour; BENCH=-quick: minutes)
	$(ROOTLY) scripts/bases.sh
	cd bench && $(ROOTLY) "$$(command -v go)" run . -strata ../bin/strata $(BENCH)

.PHONY: microbench
microbench: ## The packages' own benchmarks
	go test -run '^$$' -bench . -benchmem ./internal/...

.PHONY: docs
docs: ## Write what is generated: command reference, configuration reference, JSON schema
	go generate ./...

.PHONY: install
install: build ## Put bin/strata into $(PREFIX)/bin
	install -D -m 755 bin/strata '$(DESTDIR)$(PREFIX)/bin/strata'

.PHONY: clean
clean: ## Remove what was built; the cached base images stay
	rm -rf bin dist internal/buildkit/runcbin/*.zst internal/buildkit/runcbin/*.version
