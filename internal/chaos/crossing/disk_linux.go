package crossing

import (
	"fmt"

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
