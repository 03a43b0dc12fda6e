package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

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
	machines, err := machine.Recorded(c.machineFolder())
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

// hierarchies are where control groups are mounted: one place on hosts with version 2, one for each
// controller with version 1.
func hierarchies() ([]string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var places []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		mount, kind, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(mount); strings.HasPrefix(kind, "cgroup") {
			places = append(places, fields[4])
		}
	}
	return places, lines.Err()
}

// makeCgroups adds what a kubelet wants to find: the root of its pods in every hierarchy.
func (c *Cluster) makeCgroups() error {
	places, err := hierarchies()
	if err != nil {
		return err
	}
	for _, place := range places {
		for number := 1; number <= c.Nodes; number++ {
			if err := os.MkdirAll(filepath.Join(place, c.nodeCgroup(number)), 0o755); err != nil {
				return fmt.Errorf("control group: %w", err)
			}
		}
	}
	return nil
}

// removeCgroups removes them, the inner ones first. A group can be busy for a moment after its last
// process.
func (c *Cluster) removeCgroups() error {
	places, err := hierarchies()
	if err != nil {
		return err
	}
	for _, place := range places {
		root := filepath.Join(place, c.cgroup())
		var groups []string
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		if err != nil {
			return err
		}
		slices.Reverse(groups)
		for _, group := range groups {
			if err := removeCgroup(group); err != nil {
				return err
			}
		}
		// Another cluster's groups are beside them.
		if err := syscall.Rmdir(filepath.Dir(root)); err != nil && !gone(err) && !occupied(err) {
			return fmt.Errorf("control group %s: %w", filepath.Dir(root), err)
		}
	}
	return nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func occupied(err error) bool {
	return errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.ENOTEMPTY)
}

func removeCgroup(group string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Rmdir(group)
		if err == nil || gone(err) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("control group %s: %w", group, err)
		}
	}
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
