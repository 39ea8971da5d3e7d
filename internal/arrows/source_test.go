package arrows

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestNothingRegistersItself: no package has an init function; what a program
// is made of can be read from main down.
func TestNothingRegistersItself(t *testing.T) {
	for _, p := range load(t) {
		for _, name := range p.GoFiles {
			for _, where := range inits(t, filepath.Join(p.Dir, name)) {
				assert.Fail(t, "init function", "%s: say it where it is needed instead", where)
			}
		}
	}
}

// inits returns the positions of a file's init functions.
func inits(t *testing.T, path string) []string {
	t.Helper()
	return initsOf(t, path, nil)
}

func initsOf(t *testing.T, path string, source any) []string {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, source, parser.SkipObjectResolution)
	require.NoError(t, err)
	var found []string
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			found = append(found, set.Position(f.Pos()).String())
		}
	}
	return found
}

// TestInitsAreSeen proves that the search finds one.
func TestInitsAreSeen(t *testing.T) {
	assert.Equal(t, []string{"a.go:2:1"}, initsOf(t, "a.go", "package a\nfunc init() {}\n"))
	assert.Empty(t, initsOf(t, "a.go", "package a\ntype b int\nfunc (b) init() {}\n"))
}
