package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// source is a package, read so that its mutants can be made and checked.
type source struct {
	path    string // import path
	dir     string // relative to the module
	fset    *token.FileSet
	names   []string // of the files, relative to the module
	content [][]byte
	files   []*ast.File
	config  types.Config
}

// listed is what go list says of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// list asks go list for packages.
func list(root string, args ...string) (packages []listed, err error) {
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Export,GoFiles"}, args...)...)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(args, " "), err)
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		switch err := decoder.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages, nil
		case err != nil:
			return nil, fmt.Errorf("go list %s: %w", strings.Join(args, " "), err)
		}
		packages = append(packages, p)
	}
}

// load reads packages of the module in root, given by their directories.
func load(root string, dirs []string) (sources []*source, err error) {
	patterns := []string{"-export", "-deps"}
	for _, dir := range dirs {
		patterns = append(patterns, "./"+dir)
	}
	packages, err := list(root, patterns...)
	if err != nil {
		return nil, err
	}
	export := make(map[string]string)
	for _, p := range packages {
		export[p.ImportPath] = p.Export
	}
	for _, p := range packages {
		dir, err := filepath.Rel(root, p.Dir)
		if err != nil || !slices.Contains(dirs, dir) {
			continue
		}
		s := &source{path: p.ImportPath, dir: dir, fset: token.NewFileSet()}
		s.config = types.Config{
			Sizes: types.SizesFor("gc", runtime.GOARCH),
			Importer: importer.ForCompiler(s.fset, "gc", func(path string) (io.ReadCloser, error) {
				return os.Open(export[path])
			}),
		}
		for _, name := range p.GoFiles {
			content, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				return nil, err
			}
			file, err := parser.ParseFile(s.fset, filepath.Join(p.Dir, name), content, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			s.names = append(s.names, filepath.Join(dir, name))
			s.content, s.files = append(s.content, content), append(s.files, file)
		}
		sources = append(sources, s)
	}
	if len(sources) != len(dirs) {
		return nil, fmt.Errorf("%s: not all of these are packages of this module", strings.Join(dirs, " "))
	}
	return sources, nil
}

// mutants returns all mutants of the package. Some of them may not compile.
func (s *source) mutants() (all []mutant, err error) {
	info := &types.Info{
		Types: make(map[ast.Expr]types.TypeAndValue),
		Defs:  make(map[*ast.Ident]types.Object), Uses: make(map[*ast.Ident]types.Object),
	}
	if _, err := s.config.Check(s.path, s.fset, s.files, info); err != nil {
		return nil, err
	}
	for i, file := range s.files {
		all = append(all, mutate(s.fset, s.names[i], s.content[i], file, info)...)
	}
	return all, nil
}

// mutated returns the mutant's file, or nil if the package does not compile with it.
func (s *source) mutated(m mutant) []byte {
	i := slices.Index(s.names, m.file)
	content := m.apply(s.content[i])
	file, err := parser.ParseFile(s.fset, m.file, content, parser.SkipObjectResolution)
	if err != nil {
		return nil
	}
	files := slices.Clone(s.files)
	files[i] = file
	if _, err := s.config.Check(s.path, s.fset, files, nil); err != nil {
		return nil
	}
	return content
}
