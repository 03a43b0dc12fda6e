package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// programs that a cluster runs and does not bring, with Debian's packages.
var programs = []struct{ name, debian string }{
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"nft", "nftables"},
	{"iptables", "iptables"},
	{"conntrack", "conntrack"},
	{"nsenter", "util-linux"},
}

// Possible tells why no cluster can run on this host, if so.
func Possible() error {
	if os.Getuid() != 0 {
		return errors.New("not root")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program.name); err != nil {
			return fmt.Errorf("no %s (Debian: %s)", program.name, program.debian)
		}
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return errors.New("the kernel has no IPv6")
	}
	if _, err := pluginFolder(); err != nil {
		return err
	}
	places, err := hierarchies()
	if err != nil {
		return err
	}
	if len(places) == 0 {
		return errors.New("no control groups are mounted")
	}
	return nil
}
