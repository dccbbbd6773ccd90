# On the platform of the machine that builds: Go compiles for every other.
FROM --platform=$BUILDPLATFORM docker.io/library/golang:1.26 AS build
WORKDIR /src
# The modules first: their layer is built again only when one of these two files changes.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ARG TARGETOS
ARG TARGETARCH
ARG TARGETVARIANT
RUN VERSION=$VERSION GOOS=$TARGETOS GOARCH=$TARGETARCH GOARM=${TARGETVARIANT#v} cmd/build /out

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="sentinel-shim" \
      org.opencontainers.image.description="Ends the sidecars of Kubernetes Jobs when the main container has ended, with its exit code" \
      org.opencontainers.image.source="https://github.com/sentinel-shim/sentinel-shim" \
      org.opencontainers.image.documentation="https://github.com/sentinel-shim/sentinel-shim#readme" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /out/sentinel /out/shim /
# By number: Kubernetes cannot verify runAsNonRoot for a name, and scratch has no /etc/passwd.
USER 65532:65532
ENTRYPOINT ["/sentinel"]
