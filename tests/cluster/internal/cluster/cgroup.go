package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

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
			group := filepath.Join(place, c.nodeCgroup(number))
			if err := os.MkdirAll(group, 0o755); err != nil {
				return fmt.Errorf("control group: %w", err)
			}
			// The folder of the node, of the cluster and of all clusters.
			for ; group != place; group = filepath.Dir(group) {
				if err := weigh(group); err != nil {
					return fmt.Errorf("control group: %w", err)
				}
			}
		}
	}
	return nil
}

// weigh gives a group the part of the processors that a kubelet gives its pods: a share for each processor,
// not the one share of a single process.
func weigh(group string) error {
	for file, weight := range map[string]int{"cpu.shares": 1024, "cpu.weight": 100} {
		path := filepath.Join(group, file)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(weight*runtime.NumCPU())), 0o644); err != nil {
			return err
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
