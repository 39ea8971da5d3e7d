// Package scripts holds the migration scripts that ship with starferry. They
// are embedded, so that the program has them with nothing installed; each says
// in its docstring what it does and how it is called.
package scripts

import "embed"

// FS has the scripts by their file names.
//
//go:embed *.star
var FS embed.FS
