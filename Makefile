# `make` prints the targets. Everything is built below .cache and bin; `make clean` removes both.

# Builds and installs third-party programs; see tools/README.md.
build-tools := go build -buildvcs=false -o .cache/build ./tools/build && .cache/build
tools-bin   := .cache/tools/bin

# No path of this machine gets into programs, and so one compilation serves programs, images and tests.
export GOFLAGS += -trimpath

.DEFAULT_GOAL := help
.PHONY: help up down status deps deps-test deps-vm tools tools-dev tools-test build image push cell-image ami stock-image cell-software test test-unit test-e2e test-vm test-nfs generate lint verify attack conformance bench-start bench-overhead bench-configmaps bench-images bench-scale clean

help: ## Print this
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ A cluster on this machine (Linux, root)

# What cells are: container, or vm for virtual machines.
CELLS ?= container
# Anything here, and there is an image cache.
IMAGE_CACHE ?=

up: deps tools build $(if $(filter vm,$(CELLS)),cell-image) ## Start Kubernetes, an EC2 endpoint, Kip and an example on them
	bin/kip-local up --cells=$(CELLS) $(if $(IMAGE_CACHE),--image-cache)

down: build ## End all of it and leave nothing behind
	bin/kip-local down

status: build ## Show what runs
	bin/kip-local status

##@ Building

deps: ## Install the Debian packages that a cluster needs, where they are missing
	@$(build-tools) deps run

tools: ## Build Kubernetes, etcd, containerd and the like (once, up to 20 minutes on 2 cores)
	@$(build-tools) programs cluster

# Which image `make image` makes, and for what.
IMAGE_REGISTRY ?= docker.io/elotl
IMAGE_TAG      ?= $(shell git describe --tags --always --dirty)
ARCHITECTURES  ?= amd64 arm64

image: ## Build Kip's container image for all architectures into bin/kip-image.tar
	set -e; for arch in $(ARCHITECTURES); do \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build -buildvcs=auto -ldflags='-s -w' -o .cache/image/$$arch/kip ./cmd/kip; \
	done
	CGO_ENABLED=0 go run ./hack/image -name $(IMAGE_REGISTRY)/kip:$(IMAGE_TAG) -o bin/kip-image.tar $(IMAGE_FLAGS) \
		$(foreach arch,$(ARCHITECTURES),$(arch)=.cache/image/$(arch)/kip)

push: IMAGE_FLAGS = -push
push: image ## Build that image and push it to IMAGE_REGISTRY

cell-image: deps-vm tools build ## Build the machine image of virtual machines into .cache/cell-image
	go run ./hack/cellimage -o .cache/cell-image

# Into which account and region: as the AWS CLI finds them. What else may be said: go run ./hack/ami -h.
AMI_FLAGS ?=

ami: ## Make a machine image of EC2's of what make cell-image built; prints its ID
	@go run ./hack/ami -disk .cache/cell-image/disk -version $(IMAGE_TAG) $(AMI_FLAGS)

stock-image: deps-vm tools build ## Build what stands for a stock image in tests into .cache/stock-image
	go run ./hack/cellimage -stock -o .cache/stock-image

# For the architecture of this machine, whose programs make tools builds.
cell-software: tools build ## Pack what a stock image lacks of a cell into bin/kip-cell-software.tar.gz
	go run ./hack/cellsoftware -o bin/kip-cell-software.tar.gz

build: bin/pause ## Build Kip's own programs into bin
	CGO_ENABLED=0 go build -buildvcs=auto -ldflags='-s -w' -o bin/ ./cmd/...
	CGO_ENABLED=0 go build -buildvcs=auto -ldflags='-s -w' -o bin/example-web ./examples/web
	CGO_ENABLED=0 go build -buildvcs=auto -ldflags='-s -w' -o bin/local-node ./images/node
	CGO_ENABLED=0 go build -buildvcs=auto -ldflags='-s -w' -o bin/cell-init ./images/cell/init

bin/pause: images/pause/pause.c
	@mkdir -p bin
	gcc -static -Os -s -Wall -Werror -o $@ $<

generate: tools-dev ## Write the generated code and manifests anew
	$(tools-bin)/controller-gen object crd paths=./api/... output:crd:dir=kustomize/crd

clean: ## End a local cluster and remove all that was built
	@if [ -x bin/kip-local ]; then bin/kip-local down; fi
	rm -rf bin .cache

##@ Checking

# As root everything is installed and built first, so that no test is skipped for want of a program.
test: ## Every test; without root those that need it are left out
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory deps-test tools tools-test test-unit test-e2e; \
	else $(MAKE) --no-print-directory test-unit; \
	echo "Left out: the end-to-end tests (make test-e2e) and what else is skipped above; they need root."; fi

# The largest simulations run whole only without the race detector.
test-unit: ## Tests of the packages, with the race detector
	go test -race -timeout 20m $$(go list ./... | grep -v /test/e2e)
	CGO_ENABLED=0 go test ./internal/provider ./internal/cloudprovider/aws ./internal/simulation -run 'TestHundredInterruptions|TestBurst|TestSimulation'

test-e2e: deps-test tools build ## Tests of whole clusters on this machine (Linux, root)
	@mkdir -p .cache/artifacts
	CGO_ENABLED=0 KIP_E2E=1 go test ./test/e2e -v -count=1 -timeout 40m -artifacts -outputdir $(CURDIR)/.cache/artifacts

# How long, and the seed of an earlier time that is to come again; make simulate has it too.
DURATION ?= 30m
SEED     ?=

.PHONY: chaos
chaos: deps-test tools build ## Kill parts of a cluster and its cells for DURATION while pods run, and see that all is well afterwards (root)
	@mkdir -p .cache/artifacts
	CGO_ENABLED=0 KIP_E2E=1 KIP_CHAOS_FOR=$(DURATION) KIP_CHAOS_SEED=$(SEED) go test ./test/e2e -run '^TestChaos$$' -v -count=1 -timeout 24h \
		-artifacts -outputdir $(CURDIR)/.cache/artifacts

# Also: KIP_E2E_IMAGE_CACHE=1 for all tests of whole clusters (docs/development.md).
.PHONY: test-image-cache
test-image-cache: deps-test tools tools-test build ## Tests of clusters with an image cache, some of Kubernetes' own among them (Linux, root)
	CGO_ENABLED=0 KIP_E2E=1 KIP_E2E_IMAGE_CACHE=1 go test ./test/e2e -run 'TestImageCache|TestPrivateRegistry|TestECR|TestConformance' -v -count=1 -timeout 40m

attack: ## A million bent requests of a cell against the gateway, others each time
	KIP_GATEWAY_REQUESTS=1000000 KIP_GATEWAY_SEED=$$(date +%s) go test ./internal/gateway -run 'TestAttack$$' -count=1 -v

# How many histories, from which on; or with SEED the one to repeat, with all that happens in it.
SEEDS     ?= 10000
SEED_BASE ?= 1

# How many histories there are to find each planted bug.
MUTATION_SEEDS ?= 500

.PHONY: simulate simulate-mutations
simulate: ## Kip in a world of faults, SEEDS times from SEED_BASE on, or once and in full with SEED
	KIP_SIMULATION_SEEDS=$(SEEDS) KIP_SIMULATION_BASE=$(SEED_BASE) KIP_SIMULATION_SEED=$(SEED) GOGC=400 CGO_ENABLED=0 \
		go test ./internal/simulation -run 'TestSimulation$$' -count=1 -v -timeout 24h

simulate-mutations: ## Plant bugs in Kip, one after the other, and see that the simulation finds each
	KIP_SIMULATION_MUTATIONS=$(MUTATION_SEEDS) GOGC=400 CGO_ENABLED=0 go test ./internal/simulation -run 'TestMutations$$' -count=1 -v -timeout 24h

# Where KVM does not work this takes about ten minutes: one virtual machine at a time.
test-vm: deps deps-test cell-image stock-image ## Tests of cells that are virtual machines (Linux on amd64, root)
	KIP_VM=1 go test -p 1 ./hack/cellimage ./internal/ec2local/vm ./internal/cloudprovider/aws/ami -v -count=1 -timeout 15m
	CGO_ENABLED=0 KIP_E2E=1 KIP_E2E_CELLS=vm go test ./test/e2e -run '^TestJob$$' -v -count=1 -timeout 30m
	CGO_ENABLED=0 KIP_E2E=1 KIP_E2E_CELLS=stock go test ./test/e2e -run '^TestJob$$' -v -count=1 -timeout 30m
	$(MAKE) --no-print-directory test-nfs

test-nfs: deps deps-test cell-image ## Test of virtual machines that mount the image cache by NFS (Linux on amd64, root)
	CGO_ENABLED=0 KIP_E2E=1 KIP_E2E_CELLS=vm KIP_E2E_IMAGE_CACHE=1 go test ./test/e2e -run '^TestImageCacheByNFS$$' -v -count=1 -timeout 30m

lint: tools-dev ## Check style and known mistakes
	$(tools-bin)/golangci-lint run

verify: generate lint ## Check that what is generated is up to date, and lint
	@stale=$$(git status --porcelain -- api kustomize/crd); \
	if [ -n "$$stale" ]; then echo "Not committed after make generate:"; echo "$$stale"; exit 1; fi

# How to run some of them, or what failed: docs/development.md.
CONFORMANCE_FLAGS ?=

conformance: deps-test tools tools-test build ## Run Kubernetes' tests of a node against Kip; an interrupted run goes on (docs/conformance.md)
	CGO_ENABLED=0 go run ./hack/conformance $(CONFORMANCE_FLAGS)

bench-start: deps tools build ## Measure how long pods take to start (docs/benchmarks)
	CGO_ENABLED=0 go run ./test/bench start $(BENCH_START_FLAGS)

bench-overhead: deps tools build ## Measure the memory a cell needs beside its pod (docs/benchmarks)
	CGO_ENABLED=0 go run ./test/bench overhead

bench-configmaps: deps tools build ## Measure when changes of ConfigMaps are in pods' files (docs/benchmarks)
	CGO_ENABLED=0 go run ./test/bench configmaps

# Smaller, or longer: go run ./test/bench images --help. With CELLS=vm the share is NFS.
BENCH_IMAGES_FLAGS ?=

bench-images: deps tools build $(if $(filter vm,$(CELLS)),cell-image) ## Measure how pods start from images of up to 2 GB, pulled and cached (docs/benchmarks)
	CGO_ENABLED=0 go run ./test/bench images --cells=$(CELLS) $(BENCH_IMAGES_FLAGS)

# Smaller, or longer: go run ./test/bench scale --help.
BENCH_SCALE_FLAGS ?=

bench-scale: deps tools build ## Measure Kip with 500 to 5,000 cells, which run nothing (docs/benchmarks; takes an hour and more)
	CGO_ENABLED=0 go run ./test/bench scale $(BENCH_SCALE_FLAGS)

# Of virtual machines, on a machine that has nothing else to do.
bench-boot: deps cell-image ## Measure how long the cells' machine image takes to boot (docs/adr/0031)
	KIP_VM=1 go test ./internal/ec2local/vm -run '^$$' -bench Boot -benchtime 5x -timeout 30m

deps-test:
	@$(build-tools) deps run test

deps-vm:
	@$(build-tools) deps vm

tools-test:
	@$(build-tools) programs test

tools-dev:
	@$(build-tools) programs dev
