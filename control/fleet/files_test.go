package fleet_test

import (
	"bufio"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

var interrupt os.Signal = os.Interrupt

func writeFile(t *testing.T, name, text string) {
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
}

func readLines(r io.Reader, each func(string)) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		each(lines.Text())
	}
}
