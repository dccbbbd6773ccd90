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

// source is a package, with everything that is needed to make and type-check its mutants.
type source struct {
	path    string // import path
	dir     string // relative to the module
	fset    *token.FileSet
	names   []string // of the files, relative to the module
	content [][]byte
	files   []*ast.File
	config  types.Config
}

// listed is what go list prints about a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// list runs go list in root.
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
		return nil, fmt.Errorf("not all of these directories are packages of this module: %s", strings.Join(dirs, " "))
	}
	return sources, nil
}

// mutants returns all mutants of the package that compile. Their IDs begin with first.
func (s *source) mutants(first int) (all []mutant, err error) {
	info := &types.Info{
		Types: make(map[ast.Expr]types.TypeAndValue),
		Defs:  make(map[*ast.Ident]types.Object), Uses: make(map[*ast.Ident]types.Object),
	}
	pkg, err := s.config.Check(s.path, s.fset, s.files, info)
	if err != nil {
		return nil, err
	}
	for i, file := range s.files {
		all = append(all, mutate(s.fset, s.names[i], s.content[i], file, pkg, info)...)
	}
	for i := range all {
		all[i].id = first + i
	}
	all = s.compiling(all)
	if err := s.check(all); err != nil {
		return nil, fmt.Errorf("the mutants of %s compile alone, but not together: %w", s.dir, err)
	}
	return all, nil
}

// compiling returns those of the mutants that compile.
func (s *source) compiling(all []mutant) []mutant {
	switch {
	case s.check(all) == nil:
		return all
	case len(all) == 1:
		return nil
	}
	half := len(all) / 2
	return slices.Concat(s.compiling(all[:half]), s.compiling(all[half:]))
}

// check type-checks the package with the mutants.
func (s *source) check(mutants []mutant) error {
	files := make([]*ast.File, 0, len(s.files)+1)
	parse := func(name string, content []byte) error {
		file, err := parser.ParseFile(s.fset, name, content, parser.SkipObjectResolution)
		files = append(files, file)
		return err
	}
	for i, name := range s.names {
		if err := parse(name, s.switched(i, mutants)); err != nil {
			return err
		}
	}
	if err := parse(switchFile, []byte("package "+s.files[0].Name.Name+"\n"+switches+switchStub)); err != nil {
		return err
	}
	_, err := s.config.Check(s.path, s.fset, files, nil)
	return err
}

// switched returns the i-th file with its mutants.
func (s *source) switched(i int, mutants []mutant) []byte {
	mutants = slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool { return m.file != s.names[i] })
	return switched(s.content[i], mutants)
}
