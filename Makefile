# Warren: what can be made. `make` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
GO ?= go
BIN := bin/warren
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 10m

.PHONY: help build run test verify fmt vet lint arrows generate generated cluster cluster-stop fuzz bench bench-quick chaos sim mutate soak image docker-test clean setup

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/warren, one static binary
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/warren

run: build ## start one broker with embedded storage on port 5672
	$(BIN) server

cluster: build ## start three nodes on loopback ports and print how to reach them
	deploy/local/cluster start

cluster-stop: ## stop exactly the nodes that `make cluster` started
	deploy/local/cluster stop

setup: ## install what the tests need beside Go (as root, with apt-get)
	@test/setup

# Results are not taken from the cache: it does not see what the system tests start.
test: setup ## all tests, with the race detector (set WARREN_LARGE=1 for the acceptance sizes)
	$(GO) test -race -count=1 -timeout 25m -p 2 ./...
	cd deploy/test && $(GO) test -count=1 ./...

verify: fmt vet lint arrows generated ## format, vet, lint, import arrows, generated files current

fmt:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt-ed:"; echo "$$out"; exit 1; fi

vet:
	$(GO) vet ./...
	cd deploy/test && $(GO) vet ./...

lint:
	$(GO) tool staticcheck ./...

arrows:
	$(GO) test -count=1 ./internal/arrows

generate: ## regenerate the methods of AMQP and the protobuf code
	$(GO) generate ./...
	proto/generate

generated: ## fail when a generated file is not current
	@proto/generate --check
	@$(GO) generate ./amqp/wire/... && git diff --exit-code --stat -- amqp/wire

fuzz: ## fuzz every decoder for FUZZTIME each (default 10m)
	test/fuzz $(FUZZTIME)

# Flags of the suite: `go run ./test/benchsuite -help`; such as BENCH="-repeats 1 -works publish,both -brokers warren,rabbitmq".
BENCH ?=

bench: build ## Warren, RabbitMQ and NATS side by side (about 90 minutes; BENCH= flags); report in docs/performance.md
	test/benchsuite/setup
	$(GO) run ./test/benchsuite -warren $(BIN) $(BENCH)

bench-quick: build ## Warren alone, 1 KiB in and out: three nodes and the client on this machine
	test/bench

# What test/chaos is told; `go run ./test/chaos/cmd/chaos -list` names the faults.
DURATION ?= 10m
SEED ?= 0
FAULTS ?= all
REPORT ?= chaos-report

chaos: build ## faults under load for DURATION (SEED=, FAULTS=); report in chaos-report
	$(GO) run ./test/chaos/cmd/chaos -bin $(BIN) -duration $(DURATION) -seed $(SEED) -faults $(FAULTS) -report $(REPORT)

# How many simulated schedules, and from which seed on.
SCHEDULES ?= 10000
FIRST ?= 1

sim: ## SCHEDULES= clusters in one process with simulated network, disks and clocks, from seed FIRST= on
	$(GO) test -count=1 -timeout 24h -run TestSchedules ./test/sim -schedules $(SCHEDULES) -seed $(FIRST)

mutate: ## take each remedy out of a copy of the sources and see its test fail (an hour)
	$(GO) run ./test/mutate

soak: ## faults under load for hours (DURATION=2h)
	$(MAKE) chaos DURATION=$(if $(filter command line,$(origin DURATION)),$(DURATION),2h)

IMAGE ?= warren:latest

image: build ## the Docker image, from the binary of `make build`
	DOCKER_BUILDKIT=0 docker build --target prebuilt -t $(IMAGE) -f deploy/docker/Dockerfile .

docker-test: ## the image and the compose file on a Docker engine, with faults (minutes)
	WARREN_DOCKER=1 $(GO) test -count=1 -v -timeout 25m ./test/docker

clean: ## remove what was built
	rm -rf bin
