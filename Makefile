VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= ghcr.io/sentinel-shim/sentinel-shim:$(VERSION)
BUILDER ?= $(shell for b in docker podman buildah; do $$b info >/dev/null 2>&1 && echo $$b && break; done)
# What make image builds for, such as linux/amd64,linux/arm64; if it is empty, for this machine.
PLATFORMS ?=
# The time of all files of a release, in seconds since 1970: that of the commit.
SOURCE_DATE_EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null))

# The sidecar of the demo. Its version is in the name of the directory, so that another version is another target.
PROXY_VERSION := v2.27.0
PROXY         := bin/proxy-$(PROXY_VERSION)/cloud-sql-proxy

# The command that runs the tests. .ci/run replaces it, to get reports.
GO_TEST ?= go test
# How long make fuzz tests each parser, and how many runs make soak has, with ten changes of the volume in each.
FUZZTIME ?= 10m
SOAK     ?= 10000
# In how many pods make crash kills or stops a program.
KILLS    ?= 2000
# For how many minutes make chaos starts new Jobs.
MINUTES  ?= 20
# The seed of an earlier run repeats its pods, its Jobs and faults, or its sample of mutants. 0 is a new seed.
SEED     ?= 0
# make mutants: how many mutants are tried (0 is all), those of which packages (empty: see cmd/internal/mutants), those
# whose name matches which regular expression, and with how many layers of tests (0 is all, 1 is the package's own).
SAMPLE   ?= 0
PACKAGES ?=
ONLY     ?=
LAYERS   ?= 0
# make bench: how many rounds each measurement has, and how long the idle programs are watched.
ROUNDS   ?= 200
IDLE     ?= 60s

# A CPU limit would slow a container down while processors of the node are idle.
KUBE_SCORE := --ignore-container-cpu-limit
# The tags are versions: an image that a node has already need not be pulled again.
KUBE_SCORE += --ignore-test container-image-pull-policy
# Outside of the volumes, which have a sizeLimit, these containers write next to nothing.
KUBE_SCORE += --ignore-test container-ephemeral-storage-request-and-limit
# Which addresses a Job may talk to depends on the cluster.
KUBE_SCORE += --ignore-test pod-networkpolicy
# Users and root file systems of other projects' images are these images' own. For the container that this project adds
# and for restricted.yaml, e2e/kube/manifests_test.go and make e2e are stricter.
KUBE_SCORE += --ignore-test container-security-context-user-group-id
KUBE_SCORE += --ignore-test container-security-context-readonlyrootfilesystem

.PHONY: help build test fuzz soak simulate crash hostile mutants lint demo image release release-check vulncheck \
	sidecars e2e e2e-down gvisor chaos hundred compare programs bench bench-guard clean

help: ## list these targets (the default)
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## both programs as static binaries for Linux into bin/
	VERSION=$(VERSION) cmd/build bin

# -count 1: the cache of test results does not know that tests build the programs and run them.
test: ## all tests, under the race detector (needs a C compiler)
	$(GO_TEST) -race -count 1 ./...
	$(GO_TEST) -count 1 -parallel 4 -run 'Schedule|Defects' ./shim # the simulation: no races, but much to compute

# On one processor, so that FUZZTIME is CPU time on an idle machine.
fuzz: ## no input breaks a parser: FUZZTIME=10m for each of the four
	@for parser in lifetime/ParseCode probe/Parse probe/Answer process/ParseSignal; do \
		echo "Fuzz$${parser#*/}:"; \
		go test -run '^$$' -fuzz "^Fuzz$${parser#*/}\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s -parallel 1 \
			./sentinel/$${parser%/*} || exit 1; \
	done

soak: ## nothing grows in 10,000 runs and 100,000 events, SOAK=runs (10 min)
	go test -count 1 -v -timeout 2h -run '^TestSoak$$' ./cmd/shim -args -soak $(SOAK)

simulate: ## every schedule of small pods, and 200,000 random schedules of larger pods (10 min, some GiB)
	go test -count 1 -v -parallel 2 -timeout 2h -run Schedule ./shim -args -long -schedules 200000

crash: ## kill or stop a program at a random instant of a pod's life, KILLS=2000 times (1 min)
	go test -race -count 1 -timeout 1h -run '^TestRandomKills$$' ./cmd -args -kills $(KILLS)

hostile: ## kill, hold, and change the volume in every way, at every call of both programs (10 min)
	go test -race -count 1 -timeout 2h -run 'AtEveryCall|^TestGapBetweenTwoRuns$$' ./cmd -args -every -everything

# bin/mutants/killers stores which test has killed each mutant; that test is run first the next time.
mutants: ## find changes of the code that no test notices, SAMPLE=n SEED=n PACKAGES=... ONLY=... LAYERS=n
	@mkdir -p bin && go build -o bin/mutants/ ./cmd/internal/mutants
	bin/mutants/mutants -v -sample $(SAMPLE) -seed $(SEED) -layers $(LAYERS) -only '$(ONLY)' $(PACKAGES)

lint: ## golangci-lint, shellcheck, actionlint, kube-score for the manifests (the first time minutes, to build them)
	go tool -modfile=.ci/tools.mod golangci-lint run ./...
	@command -v shellcheck >/dev/null || { echo "lint: shellcheck is missing: apt-get install shellcheck"; exit 1; }
	shellcheck -x $$(git ls-files .ci/run cmd/build e2e | xargs grep -lE '^#!.*(bash|sh)$$')
	go tool -modfile=.ci/tools.mod actionlint
	go tool -modfile=.ci/tools.mod kube-score score --kubernetes-version v1.36 $(KUBE_SCORE) manifests/*.yaml
	cd e2e && CGO_ENABLED=0 go test -count 1 ./kube

demo: build $(PROXY) ## run four pods with a real Cloud SQL Auth Proxy, without Kubernetes
	CGO_ENABLED=0 go run ./cmd/internal/demo bin/sentinel bin/shim $(PROXY)

$(PROXY):
	CGO_ENABLED=0 GOBIN="$(CURDIR)/$(@D)" go install github.com/GoogleCloudPlatform/cloud-sql-proxy/v2@$(PROXY_VERSION)

image: ## the container image, by docker, podman or buildah (VERSION or IMAGE names it, PLATFORMS=linux/...,...)
	@[ -n "$(BUILDER)" ] || { echo "image: no docker, podman or buildah works here: name one by BUILDER=..."; exit 1; }
	$(BUILDER) build --build-arg VERSION=$(VERSION) $(if $(PLATFORMS),$(FOR_PLATFORMS),--tag) $(IMAGE) .

# podman and buildah put the images for several platforms into a manifest list, which docker does by itself. Those of
# 2022 do not know on what they build.
FOR_PLATFORMS = --platform $(PLATFORMS) $(if $(filter docker,$(notdir $(BUILDER))),--tag, \
	--build-arg BUILDPLATFORM=linux/$(shell go env GOHOSTARCH) --manifest)

release: ## build the archives, the image, the SBOMs and the checksums of VERSION=v... into dist/
	rm -rf dist
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) go run ./cmd/internal/release $(VERSION) dist

release-check: release ## build VERSION=v... twice, compare, and run it for each platform (4 min; needs qemu-user)
	SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) go test -count 1 -v -parallel 2 -timeout 30m ./cmd/internal/release \
		-args -dist "$(CURDIR)/dist" -release $(VERSION)

vulncheck: ## known vulnerabilities that the programs can reach (asks vuln.go.dev)
	go tool -modfile=.ci/tools.mod govulncheck -tags urfave_cli_no_docs ./cmd/sentinel ./cmd/shim

sidecars: ## run the sidecars of docs/sidecars.md as it says, without Kubernetes (root; the first time 5 min)
	e2e/sidecars/root
	cd e2e && CGO_ENABLED=0 go test -count 1 -v ./sidecars

e2e: ## run every manifest on a real cluster (that of KUBECONFIG, or its own as root: KUBERNETES=1.36)
	e2e/run

e2e-down: ## remove the cluster that e2e has brought up
	e2e/cluster/down --all

gvisor: ## both programs in pods of the real gVisor, without Kubernetes (root; a minute, the first time 3 more)
	cd e2e && CGO_ENABLED=0 go test -count 1 -v ./gvisor

chaos: ## run Jobs in its own cluster, and kill containers and daemons, MINUTES=20 SEED=n (root)
	e2e/run -timeout $$(($(MINUTES) + 40))m ./chaos -run '^TestChaos$$' -chaos.minutes=$(MINUTES) -chaos.seed=$(SEED)

hundred: ## a hundred Jobs with three sidecars at once, in its own cluster (root; 3 to 5 min)
	e2e/run ./chaos -run '^TestHundredAtOnce$$'

compare: ## measure the strategies of manifests/compare and write its RESULTS.md (KUBEXIT=path for kubexit)
	e2e/run -parallel 14 ./compare

programs: ## measure --copy-to against an image volume, with 50 pods each, in its own cluster (root; 10 min)
	e2e/run ./programs

bench: bin/bench/bench ## measure both programs beside what people use, ROUNDS=200 IDLE=60s KUBEXIT=path (15 min)
	bin/bench/bench -rounds $(ROUNDS) -idle $(IDLE) -kubexit '$(KUBEXIT)'

bench-guard: bin/bench/bench ## both programs are at most so much slower and larger than others (1 min; needs tini)
	cd e2e && CGO_ENABLED=0 go test -count 1 ./bench
	bin/bench/bench -guard

.PHONY: bin/bench/bench # go build knows best whether it is up to date
bin/bench/bench: build
	cd e2e && CGO_ENABLED=0 go build -o ../bin/bench/bench ./bench

clean: ## remove bin/ and dist/
	rm -rf bin dist
