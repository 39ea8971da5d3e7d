package crossing

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
	"time"
)

// Variant is the program with some lines changed.
type Variant struct {
	Name  string
	Lease time.Duration // of its shards
	Bug   string        // that is planted; empty: none
	Only  string        // the fault that shows it soonest; empty: all
	edits []edit
}

// edit replaces a text that stands exactly once in a package of the module.
type edit struct{ dir, old, new string }

// productLease is the lease of shards as they are built for users.
const productLease = 6 * time.Second

// Product is the program as it is.
func Product() Variant { return Variant{Name: "product", Lease: productLease} }

// Variants are those that can be built, by name.
func Variants() map[string]Variant {
	quick := Variant{Name: "quick", Lease: 2 * time.Second, edits: []edit{
		{"replication", "const DefaultLeaseTTL = 6 * time.Second", "const DefaultLeaseTTL = 2 * time.Second"},
		{"replication", "renewEvery = time.Hour", "renewEvery = 5 * time.Second"},
	}}
	soak := Variant{Name: "soak", Lease: quick.Lease, edits: []edit{quick.edits[0],
		{"replication", "renewEvery = time.Hour", "renewEvery = time.Second"}}}
	all := []Variant{quick, soak}
	for _, bug := range []Variant{
		{Name: "no-fence", Bug: "the owner before is not fenced", Only: "late packets of a dead shard", edits: []edit{
			{"replication", "return c.tgt.AddPartitionsToTxn(ctx, txid, f.producer, tps)", "_ = txid\n\t\treturn nil"},
			{"replication", "return c.tgt.EndTxn(ctx, txid, f.producer, false)", "return nil"},
			{"replication", "p, err := fetchOnce(ctx, r.l.c.tgt, r.l.to, at, glance{waitMS: 20, maxBytes: 4 << 20})",
				"if end := r.f.before[r.l.to]; at >= end {\n\t\t\treturn end - 1, nil\n\t\t}\n\t\tp, err := fetchOnce(ctx, r.l.c.tgt, r.l.to, at, glance{waitMS: 20, maxBytes: 4 << 20})"},
		}},
		{Name: "trusting", Bug: "what the store holds is taken for all there is", Only: "kill -9", edits: []edit{
			{"replication", "return 0, fmt.Errorf(\"target %s ends at %d, and the map at %d: %w\", r.l.to, before, target, errDisagree)\n\t\t}", "return 0, errDisagree\n\t\t}\n\t\tif ok {\n\t\t\tr.resume()\n\t\t\treturn before, nil\n\t\t}"},
		}},
		{Name: "off-by-one", Bug: "the map is off by one at a hole", Only: "cut connections", edits: []edit{
			{"replication/offsetmap", "if a, err = m.forwardHole(j, b, i); err != nil {", "if a, err = m.forwardHole(j, b, i); err == nil && a.Status == starferry.InHole {\n\t\t\ta.Offset++\n\t\t}\n\t\tif err != nil {"},
		}},
	} {
		bug.Lease, bug.edits = quick.Lease, slices.Concat(quick.edits, bug.edits)
		all = append(all, bug)
	}
	out := map[string]Variant{}
	for _, v := range all {
		out[v.Name] = v
	}
	return out
}

// overlay returns the changed files, as the compiler's -overlay wants them, and
// leaves them in a directory.
func (v Variant) overlay(root, dir string) (path string, err error) {
	texts := map[string]string{} // by path
	for _, e := range v.edits {
		if err := e.apply(root, texts); err != nil {
			return "", fmt.Errorf("variant %s: %w", v.Name, err)
		}
	}
	replace := map[string]string{}
	for i, file := range slices.Sorted(maps.Keys(texts)) {
		changed := filepath.Join(dir, fmt.Sprintf("%s-%d.go", v.Name, i))
		if err := os.WriteFile(changed, []byte(texts[file]), 0o644); err != nil {
			return "", err
		}
		replace[file] = changed
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, v.Name+".json")
	return path, os.WriteFile(path, b, 0o644)
}

// apply makes the edit in the texts, and reads those that are not there yet.
func (e edit) apply(root string, texts map[string]string) error {
	files, err := filepath.Glob(filepath.Join(root, e.dir, "*.go"))
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
		if n := strings.Count(text, e.old); n > 0 {
			found += n
			texts[file] = strings.Replace(text, e.old, e.new, 1)
		}
	}
	if found != 1 {
		return fmt.Errorf("what is to be changed stands %d times in %s, and not once: %q; adapt the variant", found, e.dir, e.old)
	}
	return nil
}

// Build builds the program from the module at root and returns its path, below dir.
func (v Variant) Build(ctx context.Context, root, dir string) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	overlay, err := v.overlay(root, dir)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", v.Name, err)
	}
	program := filepath.Join(dir, "starferry-"+v.Name)
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./agent/starferry")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", v.Name, err, out)
	}
	return program, nil
}
