// Command pod-addresses is a CNI plugin that gives a pod its addresses: it does what host-local does, after
// it has told the pod's network that nobody else has them. The kernel would ask the neighbours first, for
// one to two seconds of every pod's start.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/vishvananda/netns"
)

const delegate = "host-local"

func main() {
	err := run()
	// The runtime reads the reason where the result would be.
	told, _ := json.Marshal(map[string]any{"cniVersion": "0.4.0", "code": 100, "msg": err.Error()})
	fmt.Println(string(told))
	os.Exit(1)
}

// run returns only if it fails: what follows is another program in the same process.
func run() error {
	if os.Getenv("CNI_COMMAND") == "ADD" {
		if err := trustAddresses(os.Getenv("CNI_NETNS")); err != nil {
			return err
		}
	}
	for _, folder := range filepath.SplitList(os.Getenv("CNI_PATH")) {
		path := filepath.Join(folder, delegate)
		if _, err := os.Stat(path); err == nil {
			return syscall.Exec(path, []string{path}, os.Environ())
		}
	}
	return fmt.Errorf("no %s in CNI_PATH", delegate)
}

// trustAddresses has devices that are yet to come to a network use their IPv6 addresses at once.
func trustAddresses(path string) error {
	runtime.LockOSThread()
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("network %s: %w", path, err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		return err
	}
	err = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644)
	if back := netns.Set(here); back != nil {
		return back
	}
	return err
}
