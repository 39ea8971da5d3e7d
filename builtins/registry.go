package builtins

import (
	"errors"

	"github.com/starferry/starferry/scripting"
)

// ErrNotFound is what ports answer about a link they do not know.
var ErrNotFound = errors.New("not found")

// Ports are the world that builtins act on.
type Ports struct {
	Clusters Clusters
	Copier   Copier
	Hand     Hand
}

// Registry returns everything scripts can say, over the given world. Nil ports
// are fine for loading, checking and documenting scripts.
func Registry(p Ports) (*scripting.Registry, error) {
	return scripting.NewRegistry(types(p), entries(p))
}

func types(Ports) []*scripting.Type      { return nil }
func entries(Ports) []*scripting.Builtin { return nil }
