package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// lockName keeps a cluster to one process at a time, until it ends or calls the function returned.
func lockName(name string) (func(), error) {
	return lock(nameLock(name), func(path string) (*os.File, error) {
		return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	})
}

func nameLock(name string) string { return filepath.Join(parent, name+".lock") }

// lockSlots keeps the choice of addresses to one process at a time.
func lockSlots() (func(), error) { return lock(parent, os.Open) }

// lock takes what is at a path as a lock. The last cluster removes the path with itself, so it can be
// another file by the time the lock is ours.
func lock(path string, open func(string) (*os.File, error)) (func(), error) {
	for {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return nil, err
		}
		file, err := open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		held, err := file.Stat()
		if err != nil {
			return nil, err
		}
		if there, err := os.Stat(path); err == nil && os.SameFile(held, there) {
			return func() { file.Close() }, nil
		}
		file.Close()
	}
}

// forget removes the lock of a name, which the caller holds, and the folder of all clusters if there is
// none any more.
func forget(name string) error {
	if err := os.Remove(nameLock(name)); err != nil {
		return err
	}
	if err := syscall.Rmdir(parent); err != nil && !occupied(err) && !gone(err) {
		return fmt.Errorf("remove %s: %w", parent, err)
	}
	return nil
}
