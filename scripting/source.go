package scripting

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// MaxFileSize bounds one script file, in bytes.
const MaxFileSize = 1 << 20

// Source gives the text of script files by their slash-separated path below a
// root. A missing file is fs.ErrNotExist.
type Source func(path string) (string, error)

// Dir reads scripts below a directory; links that lead out of it are refused.
func Dir(dir string) Source {
	return func(path string) (string, error) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return "", fmt.Errorf("open scripts %s: %w", dir, err)
		}
		defer root.Close()
		f, err := root.Open(path)
		if err != nil {
			return "", fmt.Errorf("read script %s: %w", path, err)
		}
		defer f.Close()
		return readLimited(f, path)
	}
}

// FS reads scripts from a file system, such as an embedded one.
func FS(fsys fs.FS) Source {
	return func(path string) (string, error) {
		f, err := fsys.Open(path)
		if err != nil {
			return "", fmt.Errorf("read script %s: %w", path, err)
		}
		defer f.Close()
		return readLimited(f, path)
	}
}

// Files reads scripts from memory.
func Files(files map[string]string) Source {
	return func(path string) (string, error) {
		text, ok := files[path]
		if !ok {
			return "", fmt.Errorf("read script %s: %w", path, fs.ErrNotExist)
		}
		return text, nil
	}
}

func readLimited(r io.Reader, path string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxFileSize+1))
	if err != nil {
		return "", fmt.Errorf("read script %s: %w", path, err)
	}
	if len(b) > MaxFileSize {
		return "", fmt.Errorf("read script %s: %w", path, errTooLarge)
	}
	return string(b), nil
}

var errTooLarge = errors.New("larger than 1 MiB; a script is text people read")
