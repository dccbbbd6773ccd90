VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= ghcr.io/sentinel-shim/sentinel-shim:$(VERSION)
BUILDER ?= $(shell for b in docker podman buildah; do $$b info >/dev/null 2>&1 && echo $$b && break; done)

MODULE  := github.com/sentinel-shim/sentinel-shim
LDFLAGS := -s -w -X $(MODULE)/cmd/internal/app.version=$(VERSION)
# Without inlining the programs are 0.2 MB smaller. It is kept where something is urgent: while a pod runs and ends.
GCFLAGS := -gcflags all=-l $(patsubst %,-gcflags %/...=,runtime internal sync syscall github.com/fsnotify/fsnotify $(MODULE))
# The sidecar of the demo. Its version is in the folder's name, so that another version is another target.
PROXY_VERSION := v2.27.0
PROXY         := bin/proxy-$(PROXY_VERSION)/cloud-sql-proxy

# What runs the tests: .ci/run reports them in another way.
GO_TEST ?= go test
# How long each parser is fuzzed; and how many runs the soak has, of ten looks each.
FUZZTIME ?= 10m
SOAK     ?= 10000
# How many pods have a program killed or stopped.
KILLS    ?= 2000
# For how long the cluster is struck.
MINUTES  ?= 20
# The seed of an earlier run, to have the same Jobs and strikes, or the same mutants again.
SEED     ?= 0
# How many mutants are tried (0 is all), those of which packages (none named: all that decide something), and which
# of them (a regular expression). With how many layers of tests (0 is all, 1 is the tests of the package alone).
SAMPLE   ?= 0
PACKAGES ?=
ONLY     ?=
LAYERS   ?= 0

.PHONY: help build test fuzz soak simulate crash hostile mutants lint demo image e2e e2e-down gvisor chaos hundred compare clean

help: ## list these targets (the default)
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## both programs as static binaries into bin/
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags urfave_cli_no_docs $(GCFLAGS) -ldflags "$(LDFLAGS)" -o bin/ ./cmd/sentinel ./cmd/shim

# Never from the cache, which does not know that tests build and drive the programs.
test: ## all tests, under the race detector (needs a C compiler)
	$(GO_TEST) -race -count 1 ./...
	$(GO_TEST) -count 1 -parallel 4 -run 'Schedule|Defects' ./shim # a simulation: no races, but much to go through

# On one processor, so that a minute is a CPU-minute where nothing else runs.
fuzz: ## no input breaks a parser: FUZZTIME=10m for each of the four
	@for parser in lifetime/ParseCode probe/Parse probe/Answer process/ParseSignal; do \
		echo "Fuzz$${parser#*/}:"; \
		go test -run '^$$' -fuzz "^Fuzz$${parser#*/}\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s -parallel 1 ./sentinel/$${parser%/*} || exit 1; \
	done

soak: ## nothing grows in 10,000 runs and 100,000 looks, SOAK=runs (10 min)
	go test -count 1 -v -timeout 2h -run '^TestSoak$$' ./cmd/shim -args -soak $(SOAK)

simulate: ## every schedule of small pods, and 200,000 by chance of larger ones (10 min, some GiB)
	go test -count 1 -v -parallel 2 -timeout 2h -run Schedule ./shim -args -long -schedules 200000

crash: ## kill or stop a program at a random instant of a pod's life, KILLS=2000 times (1 min)
	go test -race -count 1 -timeout 1h -run '^TestRandomKills$$' ./cmd -args -kills $(KILLS)

hostile: ## a neighbour does everything to the volume at every call of both programs (10 min)
	go test -race -count 1 -timeout 2h -run '^Test(Things|Locks|Directory)AtEveryCall' ./cmd -args -every

# What has killed each mutant is kept in bin/mutants, and tried first the next time.
mutants: ## changes of the code that no test notices, SAMPLE=n SEED=n PACKAGES=... ONLY=... LAYERS=n
	@mkdir -p bin && go build -o bin/mutants/ ./cmd/internal/mutants
	bin/mutants/mutants -v -sample $(SAMPLE) -seed $(SEED) -layers $(LAYERS) -only '$(ONLY)' $(PACKAGES)

lint: ## golangci-lint and shellcheck (.golangci.yaml; the first time minutes, to build it)
	go tool -modfile=.ci/tools.mod golangci-lint run ./...
	@command -v shellcheck >/dev/null || { echo "lint: shellcheck is missing: apt-get install shellcheck"; exit 1; }
	shellcheck -x $$(git ls-files .ci/run e2e | xargs grep -lE '^#!.*(bash|sh)$$')

demo: build $(PROXY) ## end a real Cloud SQL Auth Proxy correctly, four times
	CGO_ENABLED=0 go run ./cmd/internal/demo bin/sentinel bin/shim $(PROXY)

$(PROXY):
	CGO_ENABLED=0 GOBIN="$(CURDIR)/$(@D)" go install github.com/GoogleCloudPlatform/cloud-sql-proxy/v2@$(PROXY_VERSION)

image: ## the container image (set VERSION or IMAGE to name it), with docker, podman or buildah
	@[ -n "$(BUILDER)" ] || { echo "image: no docker, podman or buildah that works here; name one: make image BUILDER=..."; exit 1; }
	$(BUILDER) build --build-arg VERSION=$(VERSION) --tag $(IMAGE) .

e2e: ## every manifest as real Jobs on a real cluster (KUBECONFIG, or one of its own as root)
	e2e/run

e2e-down: ## remove the cluster that e2e brought up
	e2e/cluster/down --all

gvisor: ## both programs in pods of the real gVisor, without Kubernetes (root; a minute, the first time 3 more)
	cd e2e && CGO_ENABLED=0 go test -count 1 -v ./gvisor

chaos: ## Jobs in a cluster of its own whose containers and daemons are killed, MINUTES=20 SEED=n (root)
	e2e/run -timeout $$(($(MINUTES) + 40))m ./chaos -run '^TestChaos$$' -chaos.minutes=$(MINUTES) -chaos.seed=$(SEED)

hundred: ## a hundred Jobs of three sidecars at once, in a cluster of its own (root; 3 to 5 min)
	e2e/run ./chaos -run '^TestHundredAtOnce$$'

compare: ## what the strategies of manifests/compare do, measured, into its RESULTS.md (KUBEXIT=path for kubexit)
	e2e/run -parallel 14 ./compare

clean: ## remove bin/
	rm -rf bin
