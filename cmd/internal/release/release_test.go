package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	dist    = flag.String("dist", "", "the release to test; without it, one with small files in place of the programs")
	version = flag.String("release", "v0.1.0-rc.1", "its version")
)

// root is the root of the repository.
const root = "../../.."

// releaseDir returns the directory of the release to test.
func releaseDir(t *testing.T) string {
	t.Helper()
	if *dist != "" {
		return *dist
	}
	dir := t.TempDir()
	writeFake(t, dir)
	return dir
}

// writeFake writes a release with small files in place of the programs.
func writeFake(t *testing.T, dir string) {
	t.Helper()
	built := make(map[platform][]program)
	for _, p := range platforms {
		for _, name := range programs {
			modules := []debug.Module{{Path: "stdlib", Version: "1.26"}, {Path: "golang.org/x/sys", Version: "v0.49.0"}}
			built[p] = append(built[p], program{name, p, []byte(name + " for " + p.String()), modules})
		}
	}
	stage, err := readDockerfile(filepath.Join(root, "Dockerfile"), map[string]string{"VERSION": *version})
	if err != nil {
		t.Fatal(err)
	}
	r := release{version: *version, time: time.Unix(1780000000, 0).UTC(), root: root, dir: dir}
	if err := r.write(platforms, built, stage); err != nil {
		t.Fatal(err)
	}
}

// readFile returns the content of a file of the release.
func readFile(t *testing.T, elements ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// unpack reads an archive that is compressed with gzip.
func unpack(t *testing.T, data []byte) (plain []byte, headers []*tar.Header, contents map[string][]byte) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err = io.ReadAll(z); err != nil {
		t.Fatal(err)
	}
	contents = make(map[string][]byte)
	for r := tar.NewReader(bytes.NewReader(plain)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return plain, headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, h)
		if contents[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// sums returns the SHA-256 of each file below a directory.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			all[path] = sha256Hex(readFile(t, dir, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFiles: the release has these files, and the checksums are those of all of them.
func TestFiles(t *testing.T) {
	t.Parallel()
	dir := releaseDir(t)
	var want []string
	for _, p := range []string{"amd64", "arm64", "armv7", "ppc64le", "s390x", "riscv64"} {
		archive := fmt.Sprintf("sentinel-shim_%s_linux_%s.tar.gz", *version, p)
		want = append(want, archive, archive+".spdx.json")
	}
	want = append(want, fmt.Sprintf("sentinel-shim_%s_image.spdx.json", *version))
	want = append(want, fmt.Sprintf("sentinel-shim_%s_image.txt", *version))
	slices.Sort(want)
	var got []string
	sums := sums(t, dir)
	for name := range sums {
		if !strings.Contains(name, "/") && name != "checksums.txt" {
			got = append(got, name)
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the release has the files\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	var lines []string
	for _, name := range want {
		lines = append(lines, sums[name]+"  "+name)
	}
	listed := strings.Split(strings.TrimSpace(string(readFile(t, dir, "checksums.txt"))), "\n")
	slices.SortFunc(listed, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	if !slices.Equal(listed, lines) {
		t.Errorf("checksums.txt has\n%s\nwant\n%s", strings.Join(listed, "\n"), strings.Join(lines, "\n"))
	}
}

// TestArchives: each archive has one directory with both programs, the license and the README, and nothing of the
// machine that it was made on.
func TestArchives(t *testing.T) {
	t.Parallel()
	dir := releaseDir(t)
	for _, p := range platforms {
		top := fmt.Sprintf("sentinel-shim_%s_%s", *version, p.slug())
		_, headers, contents := unpack(t, readFile(t, dir, top+".tar.gz"))
		var got []string
		for _, h := range headers {
			got = append(got, fmt.Sprintf("%o %s", h.Mode, h.Name))
			if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || !h.ModTime.Equal(headers[0].ModTime) {
				t.Errorf("%s: %s has the owner %d:%d (%q:%q) and the time %s",
					p, h.Name, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime)
			}
		}
		want := []string{
			"755 " + top + "/sentinel", "755 " + top + "/shim", "644 " + top + "/LICENSE", "644 " + top + "/README.md",
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: the archive has %q, want %q", p, got, want)
		}
		for _, name := range []string{"LICENSE", "README.md"} {
			if !bytes.Equal(contents[top+"/"+name], readFile(t, root, name)) {
				t.Errorf("%s: %s is not that of the repository", p, name)
			}
		}
	}
}

// blob reads a blob of the image layout and checks it against what refers to it. If into is not nil, the blob is JSON.
func blob(t *testing.T, dir string, d descriptor, mediaType string, into any) []byte {
	t.Helper()
	hex, found := strings.CutPrefix(d.Digest, "sha256:")
	if !found || d.MediaType != mediaType {
		t.Fatalf("%+v: want a %s", d, mediaType)
	}
	data := readFile(t, dir, "image", "blobs", "sha256", hex)
	if len(data) != d.Size || sha256Hex(data) != hex {
		t.Fatalf("the blob %s has %d bytes with the SHA-256 %s, want %d", hex, len(data), sha256Hex(data), d.Size)
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

// TestImage: the layout has one image for all platforms, with the programs of the archives and what the Dockerfile says
// of them.
func TestImage(t *testing.T) {
	t.Parallel()
	dir := releaseDir(t)
	if got, want := string(readFile(t, dir, "image", "oci-layout")), `{"imageLayoutVersion":"1.0.0"}`; got != want {
		t.Errorf("oci-layout is %s, want %s", got, want)
	}
	var top, all index
	if err := json.Unmarshal(readFile(t, dir, "image", "index.json"), &top); err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != *version {
		t.Fatalf("the layout has the images %+v, want one with the name %s", top.Manifests, *version)
	}
	blob(t, dir, top.Manifests[0], indexType, &all)
	reference := fmt.Sprintf("ghcr.io/sentinel-shim/sentinel-shim:%s@%s\n", *version, top.Manifests[0].Digest)
	if got := string(readFile(t, dir, "sentinel-shim_"+*version+"_image.txt")); got != reference {
		t.Errorf("the image is %q, want %q", got, reference)
	}
	blobs := 1
	var got []string
	for i, d := range all.Manifests {
		var m manifest
		blob(t, dir, d, manifestType, &m)
		got = append(got, path.Join(d.Platform.OS, d.Platform.Architecture, d.Platform.Variant))
		checkConfig(t, dir, d, m)
		checkLayer(t, dir, platforms[i], m)
		blobs += 3
	}
	want := []string{"linux/amd64", "linux/arm64", "linux/arm/v7", "linux/ppc64le", "linux/s390x", "linux/riscv64"}
	if !slices.Equal(got, want) {
		t.Errorf("the image is for %q, want %q", got, want)
	}
	if written := len(sums(t, filepath.Join(dir, "image", "blobs"))); written != blobs {
		t.Errorf("the layout has %d blobs, %d belong to the image", written, blobs)
	}
}

// checkConfig checks the configuration of the image for a platform.
func checkConfig(t *testing.T, dir string, d descriptor, m manifest) {
	t.Helper()
	var c config
	blob(t, dir, m.Config, configType, &c)
	if c.ociPlatform != *d.Platform {
		t.Errorf("the image for %+v says that it is for %+v", *d.Platform, c.ociPlatform)
	}
	if c.Config.User != "65532:65532" || !slices.Equal(c.Config.Entrypoint, []string{"/sentinel"}) {
		t.Errorf("%+v: user %q, entrypoint %q", *d.Platform, c.Config.User, c.Config.Entrypoint)
	}
	for key, want := range map[string]string{
		"title": "sentinel-shim", "licenses": "Apache-2.0", "version": *version,
		"source": "https://github.com/sentinel-shim/sentinel-shim",
	} {
		if got := c.Config.Labels["org.opencontainers.image."+key]; got != want {
			t.Errorf("%+v: the label %s is %q, want %q", *d.Platform, key, got, want)
		}
	}
	plain, _, _ := unpack(t, blob(t, dir, m.Layers[0], layerType, nil))
	if want := []string{"sha256:" + sha256Hex(plain)}; len(m.Layers) != 1 || !slices.Equal(c.RootFS.DiffIDs, want) {
		t.Errorf("%+v: %d layers, diff_ids %q, want %q", *d.Platform, len(m.Layers), c.RootFS.DiffIDs, want)
	}
}

// checkLayer checks that the image for a platform has the programs of the archive.
func checkLayer(t *testing.T, dir string, p platform, m manifest) {
	t.Helper()
	top := fmt.Sprintf("sentinel-shim_%s_%s", *version, p.slug())
	_, _, archived := unpack(t, readFile(t, dir, top+".tar.gz"))
	_, headers, contents := unpack(t, blob(t, dir, m.Layers[0], layerType, nil))
	var got []string
	for _, h := range headers {
		got = append(got, fmt.Sprintf("%o %s", h.Mode, h.Name))
		if !bytes.Equal(contents[h.Name], archived[top+"/"+h.Name]) {
			t.Errorf("%s: %s in the image is not that of the archive", p, h.Name)
		}
	}
	if want := []string{"755 sentinel", "755 shim"}; !slices.Equal(got, want) {
		t.Errorf("%s: the image has %q, want %q", p, got, want)
	}
}

// TestBills: each bill of materials names its archive or the image, its programs, and what is linked into them.
func TestBills(t *testing.T) {
	t.Parallel()
	dir := releaseDir(t)
	names, err := filepath.Glob(filepath.Join(dir, "*.spdx.json"))
	if err != nil || len(names) != len(platforms)+1 {
		t.Fatalf("bills of materials: %q, %v", names, err)
	}
	for _, name := range names {
		var d document
		if err := json.Unmarshal(readFile(t, name), &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		whole := "ghcr.io/sentinel-shim/sentinel-shim"
		of := strings.TrimSuffix(filepath.Base(name), ".spdx.json")
		var sum string
		if strings.HasSuffix(of, ".tar.gz") {
			whole, sum = of, sha256Hex(readFile(t, dir, of))
		} else {
			_, sum, _ = strings.Cut(strings.TrimSpace(string(readFile(t, dir, of+".txt"))), "@sha256:")
		}
		if got := d.Packages[0]; got.Name != whole || got.Checksums[0].ChecksumValue != sum {
			t.Errorf("%s is about %s %v, want %s %s", name, got.Name, got.Checksums, whole, sum)
		}
		checkGraph(t, name, d)
	}
}

// checkGraph checks that all packages of a document are related to it, and that golang.org/x/sys and Go's standard
// library are among them.
func checkGraph(t *testing.T, bill string, d document) {
	t.Helper()
	reached := map[string]bool{d.SPDXID: true}
	for _, r := range d.Relationships { // in order: from the document to the modules
		if !reached[r.SPDXElementID] {
			t.Errorf("%s: nothing leads to %s", bill, r.SPDXElementID)
		}
		reached[r.RelatedSPDXElement] = true
	}
	found := make(map[string]int)
	for _, p := range d.Packages {
		if found[p.Name]++; !reached[p.SPDXID] {
			t.Errorf("%s: nothing leads to the package %s", bill, p.SPDXID)
		}
		delete(reached, p.SPDXID)
	}
	if len(reached) != 1 {
		t.Errorf("%s: these are related, but no packages: %v", bill, reached)
	}
	for name, times := range map[string]int{"stdlib": 1, "golang.org/x/sys": 1, "shim": found["sentinel"]} {
		if found[name] != times || times == 0 {
			t.Errorf("%s: the package %s is listed %d times, want %d", bill, name, found[name], times)
		}
	}
}

// TestDockerfileRefused: a Dockerfile whose last stage the release would not follow to the letter is refused.
func TestDockerfileRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"FROM scratch":                               `the last stage does not begin with "FROM scratch"`,
		"\nFROM scratch\n\nFROM alpine\n":            `the last stage does not begin with "FROM scratch"`,
		"\nFROM scratch\nRUN make\n":                 "RUN make: the release does not know this instruction",
		"\nFROM scratch\nARG GREETING=hello\n":       "ARG GREETING=hello: no value for GREETING",
		"\nFROM scratch\nLABEL a=b\n":                "LABEL a=b: the value of a: invalid syntax",
		"\nFROM scratch\nCOPY sentinel shim /\n":     "the release knows only COPY --from=STAGE PROGRAM... DIRECTORY/",
		"\nFROM scratch\nCOPY --from=b shim /bin\n":  "the release knows only COPY --from=STAGE PROGRAM... DIRECTORY/",
		"\nFROM scratch\nCOPY --from=b a.conf /\n":   "the release knows only COPY --from=STAGE PROGRAM... DIRECTORY/",
		"\nFROM scratch\nENTRYPOINT /sentinel run\n": "ENTRYPOINT /sentinel run: invalid character",
	} {
		_, err := parseDockerfile(text, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestRefused: without a version, a time, a known platform and a new directory there is no release.
func TestRefused(t *testing.T) {
	old := t.TempDir()
	for _, c := range []struct{ epoch, version, platforms, dir, want string }{
		{"1", "0.1.0", "linux/amd64", "new", `"0.1.0" is no version`},
		{"1", "v0.1.0+dirty", "linux/amd64", "new", `"v0.1.0+dirty" is no version`},
		{"1", "3a048d4", "linux/amd64", "new", `"3a048d4" is no version`},
		{"", "v0.1.0", "linux/amd64", "new", "set it to the time of the commit"},
		{"1", "v0.1.0", "linux/arm64,linux/mips", "new", `no release for platform "linux/mips": there are`},
		{"1", "v0.1.0", "linux/amd64", old, "file exists"},
	} {
		t.Setenv("SOURCE_DATE_EPOCH", c.epoch)
		err := release{version: c.version, root: root, dir: c.dir}.build(c.platforms)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestImageCommand: make image builds for several platforms with every builder. podman and buildah need a manifest
// list.
func TestImageCommand(t *testing.T) {
	t.Parallel()
	const two = "linux/amd64,linux/arm64"
	for _, c := range []struct{ builder, platforms, want string }{
		{"docker", "", "docker build --build-arg VERSION=v1 --tag image:v1 ."},
		{"docker", two, "docker build --build-arg VERSION=v1 --platform " + two + " --tag image:v1 ."},
		{"/opt/podman", "", "/opt/podman build --build-arg VERSION=v1 --tag image:v1 ."},
		{"/opt/podman", two, "/opt/podman build --build-arg VERSION=v1 --platform " + two +
			" --build-arg BUILDPLATFORM=linux/" + runtime.GOARCH + " --manifest image:v1 ."},
	} {
		cmd := exec.Command("make", "-n", "--no-print-directory", "image",
			"BUILDER="+c.builder, "PLATFORMS="+c.platforms, "VERSION=v1", "IMAGE=image:v1")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "MAKEFLAGS=")
		out, err := cmd.CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		got := strings.Join(strings.Fields(lines[len(lines)-1]), " ")
		if err != nil || got != c.want {
			t.Errorf("%s: %v, make image runs\n%s\nwant\n%s", c.builder, err, out, c.want)
		}
	}
}
