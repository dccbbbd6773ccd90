package main

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// The types of https://github.com/opencontainers/image-spec, with the fields that are used here.

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *ociPlatform      `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type ociPlatform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type config struct {
	Created time.Time `json:"created"`
	ociPlatform
	Config struct {
		User       string            `json:"User"`
		Env        []string          `json:"Env"`
		Entrypoint []string          `json:"Entrypoint"`
		Labels     map[string]string `json:"Labels"`
	} `json:"config"`
	RootFS  rootFS    `json:"rootfs"`
	History []history `json:"history"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// layout is the directory of an OCI image layout.
type layout string

// add adds a blob, and returns how other blobs refer to it.
func (l layout) add(mediaType string, data []byte) (descriptor, error) {
	hex := sha256Hex(data)
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex, Size: len(data)}
	return d, os.WriteFile(filepath.Join(string(l), "blobs", "sha256", hex), data, 0o644)
}

// addJSON adds a blob that is a JSON document.
func (l layout) addJSON(mediaType string, document any) (descriptor, error) {
	data, err := json.Marshal(document)
	if err != nil {
		return descriptor{}, err
	}
	return l.add(mediaType, data)
}

// image writes the layout, whose only image is that for all platforms, and returns its digest.
func (r release) image(platforms []platform, built map[platform][]program, stage stage) (digest string, err error) {
	l := layout(filepath.Join(r.dir, layoutDir))
	if err := os.MkdirAll(filepath.Join(string(l), "blobs", "sha256"), 0o755); err != nil {
		return "", err
	}
	// Registries show the annotations of an image for several platforms, but not its labels.
	all := index{SchemaVersion: 2, MediaType: indexType, Annotations: stage.labels}
	for _, p := range platforms {
		d, err := r.platformImage(l, p, built[p], stage)
		if err != nil {
			return "", err
		}
		all.Manifests = append(all.Manifests, d)
	}
	d, err := l.addJSON(indexType, all)
	if err != nil {
		return "", err
	}
	digest = d.Digest
	d.Annotations = map[string]string{"org.opencontainers.image.ref.name": r.version}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: indexType, Manifests: []descriptor{d}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(string(l), "index.json"), top, 0o644); err != nil {
		return "", err
	}
	return digest, os.WriteFile(filepath.Join(string(l), "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// platformImage adds the image for one platform.
func (r release) platformImage(l layout, p platform, built []program, stage stage) (descriptor, error) {
	var files []file
	for _, name := range stage.files {
		for _, program := range built {
			if program.name == path.Base(name) {
				files = append(files, file{strings.TrimPrefix(name, "/"), 0o755, program.data})
			}
		}
	}
	plain, err := pack(files, r.time)
	if err != nil {
		return descriptor{}, err
	}
	compressed, err := compress(plain)
	if err != nil {
		return descriptor{}, err
	}
	layer, err := l.add(layerType, compressed)
	if err != nil {
		return descriptor{}, err
	}
	on := ociPlatform{Architecture: p.arch, OS: "linux", Variant: p.variant}
	c := config{Created: r.time, ociPlatform: on}
	c.Config.User, c.Config.Entrypoint, c.Config.Labels = stage.user, stage.entrypoint, stage.labels
	// docker, podman and buildah set this for an image from scratch.
	c.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	c.RootFS = rootFS{Type: "layers", DiffIDs: []string{"sha256:" + sha256Hex(plain)}}
	c.History = []history{{Created: r.time, CreatedBy: "COPY " + strings.Join(stage.files, " ")}}
	configuration, err := l.addJSON(configType, c)
	if err != nil {
		return descriptor{}, err
	}
	d, err := l.addJSON(manifestType, manifest{
		SchemaVersion: 2, MediaType: manifestType, Config: configuration, Layers: []descriptor{layer},
	})
	d.Platform = &on
	return d, err
}
