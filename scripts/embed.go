// Package scripts holds the migration scripts that ship with the program.
package scripts

import "embed"

// Files are the scripts, at the root of the file system.
//
//go:embed *.star
var Files embed.FS
