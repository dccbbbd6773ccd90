package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"time"
)

// file is a file of an archive or of an image.
type file struct {
	name string
	mode int64
	data []byte
}

func (r release) archiveName(p platform) string { return project + "_" + r.version + "_" + p.slug() }

// archive returns the archive for a platform. All its files are in one directory.
func (r release) archive(p platform, built []program) ([]byte, error) {
	var files []file
	for _, program := range built {
		files = append(files, file{r.archiveName(p) + "/" + program.name, 0o755, program.data})
	}
	for _, document := range documents {
		data, err := os.ReadFile(filepath.Join(r.root, document))
		if err != nil {
			return nil, err
		}
		files = append(files, file{r.archiveName(p) + "/" + document, 0o644, data})
	}
	plain, err := pack(files, r.time)
	if err != nil {
		return nil, err
	}
	return compress(plain)
}

// pack returns a tar archive of files that belong to root.
func pack(files []file, modified time.Time) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		err := w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: modified,
		})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

// compress returns data in gzip's format, without a name and a time.
func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err := w.Close()
	return out.Bytes(), err
}
