package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// The types of https://spdx.github.io/spdx-spec/v2.3/, with the fields that are used here.

type document struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	DocumentNamespace string         `json:"documentNamespace"`
	CreationInfo      creationInfo   `json:"creationInfo"`
	Packages          []spdxPackage  `json:"packages"`
	Relationships     []relationship `json:"relationships"`
}

type creationInfo struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	SPDXID                string        `json:"SPDXID"`
	Name                  string        `json:"name"`
	VersionInfo           string        `json:"versionInfo"`
	PackageFileName       string        `json:"packageFileName,omitempty"`
	DownloadLocation      string        `json:"downloadLocation"`
	FilesAnalyzed         bool          `json:"filesAnalyzed"`
	PrimaryPackagePurpose string        `json:"primaryPackagePurpose"`
	LicenseDeclared       string        `json:"licenseDeclared,omitempty"`
	Checksums             []checksum    `json:"checksums,omitempty"`
	ExternalRefs          []externalRef `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm     string `json:"algorithm"`
	ChecksumValue string `json:"checksumValue"`
}

type externalRef struct {
	ReferenceCategory string `json:"referenceCategory"`
	ReferenceType     string `json:"referenceType"`
	ReferenceLocator  string `json:"referenceLocator"`
}

type relationship struct {
	SPDXElementID      string `json:"spdxElementId"`
	RelationshipType   string `json:"relationshipType"`
	RelatedSPDXElement string `json:"relatedSpdxElement"`
}

const (
	noAssertion = "NOASSERTION"
	license     = "Apache-2.0"
)

// asset returns the package that a file of the release is.
func (r release) asset(name string, data []byte) spdxPackage {
	return spdxPackage{
		Name: name, VersionInfo: r.version, PackageFileName: name, PrimaryPackagePurpose: "ARCHIVE",
		DownloadLocation: repository + "/releases/download/" + r.version + "/" + name,
		LicenseDeclared:  license,
		Checksums:        []checksum{{"SHA256", sha256Hex(data)}},
	}
}

// imageAsset returns the package that the image is.
func (r release) imageAsset(digest string) spdxPackage {
	locator := fmt.Sprintf("pkg:oci/%s@%s?repository_url=%s&tag=%s",
		project, url.QueryEscape(digest), url.QueryEscape(image), r.version)
	return spdxPackage{
		Name: image, VersionInfo: r.version, PrimaryPackagePurpose: "CONTAINER", DownloadLocation: noAssertion,
		LicenseDeclared: license,
		Checksums:       []checksum{{"SHA256", strings.TrimPrefix(digest, "sha256:")}},
		ExternalRefs:    purl(locator),
	}
}

func purl(locator string) []externalRef { return []externalRef{{"PACKAGE-MANAGER", "purl", locator}} }

// bill returns the bill of materials of an archive or an image: the programs in it, and the modules that are linked
// into them.
func (r release) bill(asset spdxPackage, built []program) ([]byte, error) {
	asset.SPDXID = "SPDXRef-release"
	d := document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", Name: asset.Name,
		// It has to be different for each document.
		DocumentNamespace: fmt.Sprintf("%s/spdx/%s/%s", repository, r.version, asset.Checksums[0].ChecksumValue),
		CreationInfo:      creationInfo{r.time.Format(time.RFC3339), []string{"Tool: " + project + "-release"}},
		Packages:          []spdxPackage{asset},
	}
	d.relate(d.SPDXID, "DESCRIBES", asset.SPDXID)
	listed := make(map[string]bool)
	for _, p := range built {
		own := spdxPackage{
			SPDXID: id("program", p.on.slug(), p.name),
			Name:   p.name, VersionInfo: r.version, PackageFileName: p.name, PrimaryPackagePurpose: "APPLICATION",
			DownloadLocation: noAssertion,
			LicenseDeclared:  license,
			Checksums:        []checksum{{"SHA256", sha256Hex(p.data)}},
			ExternalRefs:     purl("pkg:golang/" + module + "@" + r.version + "#cmd/" + p.name),
		}
		d.Packages = append(d.Packages, own)
		d.relate(asset.SPDXID, "CONTAINS", own.SPDXID)
		for _, m := range p.modules {
			library := spdxPackage{
				SPDXID: id("module", m.Path, m.Version),
				Name:   m.Path, VersionInfo: m.Version, PrimaryPackagePurpose: "LIBRARY", DownloadLocation: noAssertion,
				ExternalRefs: purl("pkg:golang/" + m.Path + "@" + m.Version),
			}
			if !listed[library.SPDXID] {
				listed[library.SPDXID] = true
				d.Packages = append(d.Packages, library)
			}
			d.relate(own.SPDXID, "STATIC_LINK", library.SPDXID)
		}
	}
	data, err := json.MarshalIndent(d, "", "  ")
	return append(data, '\n'), err
}

func (d *document) relate(from, how, to string) {
	d.Relationships = append(d.Relationships, relationship{from, how, to})
}

var notInID = regexp.MustCompile(`[^0-9A-Za-z.-]+`)

// id returns an SPDX identifier.
func id(words ...string) string {
	return "SPDXRef-" + notInID.ReplaceAllString(strings.Join(words, "-"), "-")
}
