VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
IMAGE   ?= ghcr.io/sentinel-shim/sentinel-shim:$(VERSION)
BUILDER ?= $(shell for b in docker podman buildah; do $$b info >/dev/null 2>&1 && echo $$b && break; done)

MODULE  := github.com/sentinel-shim/sentinel-shim
LDFLAGS := -s -w -X $(MODULE)/cmd/internal/app.version=$(VERSION)
# Only --help uses text/template: it is to be small rather than fast.
GCFLAGS := text/template/...=-l
# The sidecar of the demo. Its version is in the folder's name, so that another version is another target.
PROXY_VERSION := v2.27.0
PROXY         := bin/proxy-$(PROXY_VERSION)/cloud-sql-proxy

.PHONY: help build test lint demo image e2e e2e-down compare clean

help: ## list these targets (the default)
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## both programs as static binaries into bin/
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags urfave_cli_no_docs -gcflags "$(GCFLAGS)" -ldflags "$(LDFLAGS)" -o bin/ ./cmd/sentinel ./cmd/shim

# Never from the cache, which does not know that tests build and drive the programs.
test: ## all tests, under the race detector (needs a C compiler)
	go test -race -count 1 ./...

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l cmd sentinel shim e2e/*.go e2e/kube e2e/compare) && if [ -n "$$unformatted" ]; then echo "not gofmt-ed:" $$unformatted; exit 1; fi
	go vet ./...
	go tool -modfile=.ci/tools.mod staticcheck ./...

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

compare: ## what the strategies of manifests/compare do, measured, into its RESULTS.md (KUBEXIT=path for kubexit)
	e2e/run -parallel 14 ./compare

clean: ## remove bin/
	rm -rf bin
