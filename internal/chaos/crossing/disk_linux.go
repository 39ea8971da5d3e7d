package crossing

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// mountDisk puts a small disk, held in memory, at a directory.
func mountDisk(dir string, bytes int) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		return fmt.Errorf("mount a small disk at %s: %w (only root may)", dir, err)
	}
	return nil
}

func unmountDisk(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH) }

// usedBytes is what a file takes on its disk: stores make theirs larger than they
// are filled.
func usedBytes(d fs.DirEntry) (int64, error) {
	info, err := d.Info()
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("no such number")
	}
	return st.Blocks * 512, nil // stat(2)
}
