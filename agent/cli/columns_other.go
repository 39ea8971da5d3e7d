//go:build !unix

package cli

import (
	"io"

	"github.com/starferry/starferry/scripting"
)

func columns(io.Writer) int { return scripting.Width }
