// Package plant builds programs of this module with some lines changed: shorter
// times, or planted bugs that a harness must find. Nothing in the product knows
// of it: the compiler is given other source through its -overlay.
package plant

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Edit replaces a text that stands exactly once in a package of the module.
type Edit struct{ Dir, Old, New string }

// Build builds a package of the module at root with some edits, and returns the
// program's path, below dir. The name is that of the program and of its source.
func Build(ctx context.Context, root, dir, name, pkg string, edits []Edit) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	list, err := overlay(root, dir, name, edits)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	program := filepath.Join(dir, filepath.Base(pkg)+"-"+name)
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", list, "-buildvcs=false", "-ldflags", "-s -w", "-o", program, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return program, nil
}

// Check reports an edit whose text does not stand exactly once any more.
func Check(root string, edits []Edit) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	texts := map[string]string{}
	for _, e := range edits {
		if err := e.apply(root, texts); err != nil {
			return err
		}
	}
	return nil
}

// overlay leaves the changed files in a directory, with the list of them that
// the compiler's -overlay wants.
func overlay(root, dir, name string, edits []Edit) (path string, err error) {
	texts := map[string]string{} // by path
	for _, e := range edits {
		if err := e.apply(root, texts); err != nil {
			return "", err
		}
	}
	replace := map[string]string{}
	for i, file := range slices.Sorted(maps.Keys(texts)) {
		changed := filepath.Join(dir, fmt.Sprintf("%s-%d.go", name, i))
		if err := os.WriteFile(changed, []byte(texts[file]), 0o644); err != nil {
			return "", err
		}
		replace[file] = changed
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, name+".json")
	return path, os.WriteFile(path, b, 0o644)
}

// apply makes the edit in the texts, and reads those that are not there yet.
func (e Edit) apply(root string, texts map[string]string) error {
	files, err := filepath.Glob(filepath.Join(root, e.Dir, "*.go"))
	if err != nil {
		return err
	}
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, read := texts[file]
		if !read {
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			text = string(b)
		}
		if n := strings.Count(text, e.Old); n > 0 {
			found += n
			texts[file] = strings.Replace(text, e.Old, e.New, 1)
		}
	}
	if found != 1 {
		return fmt.Errorf("what is to be changed stands %d times in %s, and not once: %q; adapt the edit", found, e.Dir, e.Old)
	}
	return nil
}
