package arrows

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// module is this repository's import path.
const module = "github.com/starferry/starferry"

// pkg is what `go list -json` says of one package.
type pkg struct {
	ImportPath string
	Dir        string
	Standard   bool
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// graph is the packages of this module by import path.
type graph map[string]pkg

// root is the directory of the repository.
func root(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	require.NoError(t, err, "go env GOMOD")
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// load lists the module's packages with their non-test imports.
func load(t *testing.T) graph {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Standard,GoFiles,Imports,Deps", "./...")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go list: %s", stderr.String())
	g := graph{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err, "read the output of go list")
		}
		g[p.ImportPath] = p
	}
	require.Contains(t, g, module, "go list did not list the root package")
	return g
}

// in returns the packages at or below a directory of the repository, in order.
func (g graph) in(dir string) []pkg {
	var found []pkg
	for path, p := range g {
		if below(path, module+"/"+dir) {
			found = append(found, p)
		}
	}
	slices.SortFunc(found, func(a, b pkg) int { return strings.Compare(a.ImportPath, b.ImportPath) })
	return found
}

// below reports whether path is dir or a package below it.
func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// forbidden returns what of imports lies at or below one of the paths.
func forbidden(imports, paths []string) []string {
	var hit []string
	for _, i := range imports {
		for _, p := range paths {
			if below(i, p) {
				hit = append(hit, i)
			}
		}
	}
	return hit
}

// ours turns directories of this repository into import paths.
func ours(dirs ...string) []string {
	var paths []string
	for _, d := range dirs {
		paths = append(paths, module+"/"+d)
	}
	return paths
}

// text reads a file of the repository; an absent one is empty.
func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	require.NoError(t, err)
	return string(b)
}
