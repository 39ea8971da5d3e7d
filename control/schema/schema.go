// Package schema holds the JSON Schemas of everything that agents and instances
// tell each other, one file for each payload, so that a client can be written in
// any language. docs/protocol.md is the page around them.
//
// # Rules
//
//   - The Go types of control are what counts; tests hold the schemas to them,
//     field by field, in both directions.
//   - A schema is open: a field it does not know is no error, since a newer
//     writer of the same version may add some.
package schema

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

//go:embed *.json
var files embed.FS

// Names lists the payloads, in order.
func Names() []string {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil // they are part of the program
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".json"))
	}
	return names
}

// Text is the schema of one payload (JSON Schema, draft 2020-12).
func Text(name string) (string, error) {
	data, err := files.ReadFile(name + ".json")
	if err != nil {
		return "", fmt.Errorf("there is no schema %q; there are %s", name, strings.Join(Names(), ", "))
	}
	return string(data), nil
}
