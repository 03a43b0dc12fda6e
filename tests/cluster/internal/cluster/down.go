package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"weir-cluster/internal/machine"
)

// WatchArgument makes this executable wait for the end of a cluster's owner.
const WatchArgument = "watch-owner"

// Down takes a cluster away, in whatever state it is. A cluster that is not there is no error.
func Down(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%q cannot be the name of a cluster", name)
	}
	unlock, err := lockName(name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := remove(&Cluster{Name: name}); err != nil {
		return err
	}
	return forget(name)
}

// remove ends the machines, and with them everything in their namespaces; then deletes what is outside:
// the cable, the control groups and the folder. The caller holds the lock of that name.
func remove(c *Cluster) error {
	recorded, err := Load(c.Name)
	if err == nil {
		c = recorded
		if err := c.endWatcher(); err != nil {
			return err
		}
	}
	machines, err := machine.Find(c.machineFolder())
	if err != nil {
		return err
	}
	for _, m := range machines {
		if err := m.Halt(); err != nil {
			return err
		}
	}
	if recorded != nil {
		if err := c.unplug(); err != nil {
			return fmt.Errorf("host's end of the cable: %w", err)
		}
	}
	if err := c.removeCgroups(); err != nil {
		return err
	}
	if err := unmountBelow(c.Folder()); err != nil {
		return err
	}
	return os.RemoveAll(c.Folder())
}

// unmountBelow is for mounts that somebody else made in a cluster's folder; its own are its machines'.
func unmountBelow(folder string) error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer file.Close()
	var points []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); strings.HasPrefix(fields[4], folder+"/") {
			points = append(points, fields[4])
		}
	}
	slices.Reverse(points)
	for _, point := range points {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return lines.Err()
}

// watchOwner starts the process that takes the cluster away when its owner has ended, however it did.
func (c *Cluster) watchOwner() error {
	watcher := exec.Command("/proc/self/exe", WatchArgument, c.Name, strconv.Itoa(c.Owner))
	watcher.Args[0] = filepath.Base(os.Args[0])
	watcher.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := watcher.Start(); err != nil {
		return fmt.Errorf("watcher of process %d: %w", c.Owner, err)
	}
	started, err := machine.Identity(watcher.Process.Pid)
	if err != nil {
		return fmt.Errorf("watcher of process %d: %w", c.Owner, err)
	}
	c.Watcher, c.WatcherStarted = watcher.Process.Pid, started
	return c.save()
}

// WatchOwner waits for the end of a process and takes the cluster away.
func WatchOwner(name, owner string) error {
	pid, err := strconv.Atoi(owner)
	if err != nil {
		return err
	}
	if err := awaitEnd(pid); err != nil {
		return err
	}
	return Down(name)
}

func awaitEnd(pid int) error {
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(process)
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// endWatcher, unless it is the watcher that takes the cluster away.
func (c *Cluster) endWatcher() error {
	if c.Watcher == 0 || c.Watcher == os.Getpid() {
		return nil
	}
	return machine.End(c.Watcher, c.WatcherStarted)
}
