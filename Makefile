# starferry: what can be done here. `make` alone lists it.
#
# Variables:
#   KAFKA        Apache Kafka version(s) for the targets that need real brokers:
#                one version, or SOURCE,TARGET          (default 4.3.1)
#   TESTFLAGS    more flags for go test, such as -v or -race
#   BRIEF        1: test-kafka leaves out what waits for timers that no version changes
#   RUN          run only the tests whose names match this expression
#   PKG          the packages to test                   (default ./...)
#   DEMOFLAGS    flags for `starferry demo`, such as --keep or --json
#   ONLY         parts of `make bench` to run, such as latency,map; list names them (default all)
#   BENCHFLAGS   flags for the benchmark, such as -small or -into BENCHMARKS.md
#   RECORDS      records of `make proof`                (default 1000000)
#   CHAOSFOR     how long `make chaos` switches         (default 30m)
#   HANDFOR      how long `make chaos` lays hands on a group (default 30m)
#   SWITCHES     of `make switches`                     (default 1000)
#   SOAKFOR      how long `make soak` lasts             (default 20m)
#   COPYFOR      how long `make chaos` copies           (default 30m)
#   SEARCHFOR    how long `make search` lasts           (default 10m)
#   CHAOSFLAGS   flags for the chaos harness, such as -seed 7 or -keep
#   VERSION      what `starferry version` says          (default: from git)

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

KAFKA       ?= 4.3.1
TESTFLAGS   ?=
BRIEF       ?=
RUN         ?=
PKG         ?= ./...
DEMOFLAGS   ?=
ONLY        ?= all
BENCHFLAGS  ?=
RECORDS     ?= 1000000
CHAOSFOR    ?= 30m
HANDFOR     ?= 30m
SWITCHES    ?= 1000
COPYFOR     ?= 30m
SOAKFOR     ?= 20m
SEARCHFOR   ?= 10m
CHAOSFLAGS  ?=
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The version is stamped here, so that a build works where git refuses to answer
# (a checkout of another user) as well.
export GOFLAGS += -buildvcs=false

comma    := ,
versions := $(sort $(subst $(comma), ,$(KAFKA)))
jars      = $(foreach v,$(versions),.kafka/$(v)/.complete)
gotest    = go test $(TESTFLAGS) $(if $(RUN),-run '$(RUN)')
ldflags   = -s -w -X main.version=$(VERSION)

.PHONY: help
help: ## list the targets
	@echo "starferry $(VERSION)"; echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo; sed -n '/^# Variables:/,/^$$/s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build bin/starferry, bin/orders and bin/kafkaup
	@mkdir -p bin
	go build -trimpath -ldflags '$(ldflags)' -o bin/starferry ./agent/starferry
	go build -trimpath -ldflags '-s -w' -o bin/orders ./examples/orders
	go build -trimpath -o bin/kafkaup ./internal/kafkatest/cmd/kafkaup

.PHONY: demo
demo: build ## move a live consumer group there, back and there again, with nothing installed
	bin/starferry demo $(DEMOFLAGS)

.PHONY: demo-waves
demo-waves: build ## move 500 groups over 1,000 topics in waves; one fails on purpose, is mended, and the rest goes on
	bin/starferry demo --groups 500 --rate 1000 --at-once 20 $(DEMOFLAGS)

.PHONY: test
test: ## all tests that need only Go; a few minutes
	$(gotest) -timeout 6m $(PKG)

.PHONY: test-kafka
test-kafka: kafka ## the tests that speak to clusters, against real Apache Kafka (KAFKA=4.3.1 or KAFKA=3.9.2,4.3.1)
	STARFERRY_KAFKA='$(KAFKA)' STARFERRY_BRIEF='$(BRIEF)' $(gotest) -count=1 -p 1 -timeout 15m \
		$$(go list -f '{{$$p := .ImportPath}}{{range $$i := .TestImports}}{{if eq $$i "github.com/starferry/starferry/internal/kafkatest"}}{{$$p}}{{"\n"}}{{end}}{{end}}{{range $$i := .XTestImports}}{{if eq $$i "github.com/starferry/starferry/internal/kafkatest"}}{{$$p}}{{"\n"}}{{end}}{{end}}' $(PKG) | sort -u)

.PHONY: kafka
kafka: $(jars) ## fetch Apache Kafka's jars into .kafka/VERSION (needs Java 17 and Maven)

.kafka/%/.complete:
	@$(MAKE) --no-print-directory java
	go run ./internal/kafkatest/cmd/kafkaup fetch $* .kafka

.PHONY: java
java:
	@command -v java >/dev/null || { echo "make kafka: there is no java. Real Kafka needs Java 17 or newer: apt-get install openjdk-17-jre-headless (make test and make demo need neither)." >&2; exit 1; }
	@v=$$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | sed -n 1p); \
	 [ "$${v:-0}" -ge 17 ] || { echo "make kafka: this is Java $${v:-of an unknown version}; Kafka 4 needs 17 or newer: apt-get install openjdk-17-jre-headless" >&2; exit 1; }
	@command -v mvn >/dev/null || { echo "make kafka: there is no mvn. Kafka's jars are fetched by Maven: apt-get install maven" >&2; exit 1; }

.PHONY: lint
lint: ## formatting, go vet, staticcheck, import arrows
	@un=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$un" ] || { echo "not formatted (run gofmt -w):" >&2; echo "$$un" >&2; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go test -count=1 ./internal/arrows

.PHONY: chaos-build
chaos-build: build
	go build -trimpath -o bin/chaos ./internal/chaos/cmd/chaos

.PHONY: proof
proof: kafka ## RECORDS records of all kinds made by Java are copied, read back by Java, verified and translated
	STARFERRY_KAFKA='$(KAFKA)' STARFERRY_JAVA_RECORDS=$(RECORDS) go test -count=1 -v -timeout 30m ./internal/javatopic

.PHONY: chaos-short
chaos-short: chaos-build ## faults during switches and around the copy, and planted bugs that must be found; at most 6 minutes
	bin/chaos -for 90s $(CHAOSFLAGS)
	bin/chaos switches -n 50
	bin/chaos plants -plants late-hand-out,early-translation -for 90s
	bin/chaos hand -for 25s $(CHAOSFLAGS)
	bin/chaos copy -variant quick -for 25s -trial 10s
	bin/chaos copy -variant no-fence -for 60s -trial 15s
	bin/chaos copy -variant trusting -for 60s -trial 6s
	bin/chaos copy -variant off-by-one -for 60s -trial 6s

.PHONY: chaos
chaos: chaos-build ## the same for longer (CHAOSFOR=30m of switches, HANDFOR=30m of hands on a group, COPYFOR=30m of copying); with real brokers: CHAOSFLAGS='-kafka 4.3.1'
	bin/chaos -for $(CHAOSFOR) $(CHAOSFLAGS)
	bin/chaos hand -for $(HANDFOR) $(CHAOSFLAGS)
	bin/chaos copy -for $(COPYFOR) $(CHAOSFLAGS)

.PHONY: search
search: ## go through all interleavings of a small group's switch, with faults, for SEARCHFOR=10m; at most 6 GB
	GOMEMLIMIT=5500MiB go test -count=1 -v -timeout 0 -run 'TestTheSmallSearch|TestTheLargeSearch|TestEachPlanted|TestTheSearchOfExternal' ./control/switchover -search-for $(SEARCHFOR)

.PHONY: chaos-plants
chaos-plants: chaos-build ## bugs planted in agent, service, producer and copy: each must be found; about 9 minutes (with KAFKA's brokers too: make chaos-plants-kafka)
	bin/chaos plants
	bin/chaos -trials 4 -plant -for 2m
	bin/chaos copy -plants -for 60s -trial 15s

.PHONY: chaos-plants-kafka
chaos-plants-kafka: chaos-build kafka ## the bugs planted in the copy, on real brokers, with the one that only they show
	bin/chaos copy -plants -for 2m -trial 15s -kafka $(lastword $(versions))

.PHONY: switches
switches: chaos-build kafka ## SWITCHES=1000 switches and switch-backs of a busy group on real brokers: nothing lost, twice or out of order
	bin/chaos switches -n $(SWITCHES) -kafka $(lastword $(versions))

.PHONY: soak
soak: chaos-build ## as many small batches as go through for SOAKFOR=20m, ids renewed every second: memory, files and disk must be flat
	bin/chaos copy -soak -variant soak -for $(SOAKFOR)

.PHONY: bench
bench: build kafka ## every figure with its bar, beside MirrorMaker 2 on the same brokers; up to 30 minutes (ONLY=copy, ONLY=list)
	@mkdir -p .tmp
	go build -o bin/bench ./internal/bench/cmd/bench
	bin/bench -only '$(ONLY)' -starferry bin/starferry -kafka $(lastword $(versions)) -into .tmp/bench.md $(BENCHFLAGS)

.PHONY: clean
clean: ## remove what was built; jars in .kafka stay
	rm -rf bin .tmp
