//go:build unix

package cli

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/starferry/starferry/scripting"
)

// columns is how wide a terminal is; elsewhere, or if it does not say, as wide
// as tables are.
func columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return int(size.Col)
		}
	}
	return scripting.Width
}
