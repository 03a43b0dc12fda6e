// Package cluster makes a Kubernetes cluster out of machines on this host, and takes it away again.
package cluster

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"

	"weir-cluster/internal/machine"
)

// parent of the folders of all clusters. Kubelets and containerd need a real file system, and sockets a
// short path.
const parent = "/var/lib/weir-cluster"

// MaxNodes is what the plan of addresses has room for.
const MaxNodes = 8

// Control is the name of the machine that runs the control plane and routes between host and nodes.
const Control = "control"

// Cluster is one cluster as it is recorded in its folder.
type Cluster struct {
	Name string
	// Slot chooses its addresses.
	Slot int
	// Nodes is how many there are.
	Nodes int
	// Owner is the process with which the cluster ends; 0 for none.
	Owner int
	// Watcher is the process that waits for that.
	Watcher        int
	WatcherStarted uint64
}

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Folder of a cluster.
func (c *Cluster) Folder() string { return filepath.Join(parent, c.Name) }

// Kubeconfig of its administrator.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Folder(), "kubeconfig") }

func (c *Cluster) record() string          { return filepath.Join(c.Folder(), "cluster.json") }
func (c *Cluster) machineFolder() string   { return filepath.Join(c.Folder(), "machines") }
func (c *Cluster) pki(file string) string  { return filepath.Join(c.Folder(), "pki", file) }
func (c *Cluster) conf(file string) string { return filepath.Join(c.Folder(), file) }

// cgroup that the pods of all nodes are below, relative to each hierarchy's root.
func (c *Cluster) cgroup() string { return filepath.Join("/weir-cluster", c.Name) }

// nodeName of the node with that number, from 1.
func (c *Cluster) nodeName(number int) string { return fmt.Sprintf("%s-node%d", c.Name, number) }

func (c *Cluster) machineName(number int) string { return fmt.Sprintf("node%d", number) }

// save records the cluster in its folder.
func (c *Cluster) save() error {
	content, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.record(), content, 0o644)
}

// Load reads what is recorded of a cluster.
func Load(name string) (*Cluster, error) {
	c := &Cluster{Name: name}
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("%q cannot be the name of a cluster", name)
	}
	content, err := os.ReadFile(c.record())
	if err != nil {
		return nil, fmt.Errorf("no cluster %s: %w", name, err)
	}
	return c, json.Unmarshal(content, c)
}

// Machine is the one of that name.
func (c *Cluster) Machine(name string) (*machine.Machine, error) {
	machines, err := machine.Find(c.machineFolder())
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no machine %s runs in cluster %s", name, c.Name)
}

// addresses of a cluster. All are in 198.18.0.0/15, which is reserved for tests of networks: nobody's
// private network is hidden by them.
type addresses struct {
	family
	balanced netip.Prefix
	api      netip.Addr
	dns      netip.Addr
	// six are those of IPv6, in a network of unique local addresses that was chosen once.
	six family
}

// family is what a cluster has of IPv4 and of IPv6.
type family struct {
	all      netip.Prefix
	machines netip.Prefix
	host     netip.Addr
	control  netip.Addr
	services netip.Prefix
}

// both families, the one that everything has first.
func (a addresses) both() [2]family { return [2]family{a.family, a.six} }

const slots = 32

func plan(slot int) addresses {
	second, third := 18+slot/16, slot%16*16
	at := func(block, last int) netip.Addr {
		return netip.AddrFrom4([4]byte{198, byte(second), byte(third + block), byte(last)})
	}
	six := func(block, last int) netip.Addr {
		return netip.AddrFrom16([16]byte{
			0xfd, 0x77, 0x65, 0x69, 0x72, byte(slot), 0, byte(block), 15: byte(last),
		})
	}
	return addresses{
		family: family{
			all:      netip.PrefixFrom(at(0, 0), 20),
			machines: netip.PrefixFrom(at(0, 0), 24),
			host:     at(0, 1),
			control:  at(0, 2),
			services: netip.PrefixFrom(at(4, 0), 22),
		},
		balanced: netip.PrefixFrom(at(1, 0), 24),
		api:      at(4, 1),
		dns:      at(4, 10),
		six: family{
			all:      netip.PrefixFrom(six(0, 0), 48),
			machines: netip.PrefixFrom(six(0, 0), 64),
			host:     six(0, 1),
			control:  six(0, 2),
			services: netip.PrefixFrom(six(4, 0), 112),
		},
	}
}

// node is the address of a node, counted from 1.
func (f family) node(number int) netip.Addr {
	block := f.machines.Addr().AsSlice()
	block[len(block)-1] = byte(10 + number)
	address, _ := netip.AddrFromSlice(block)
	return address
}

// pods are the addresses of a node's pods.
func (f family) pods(number int) netip.Prefix {
	block, network := f.machines.Addr().AsSlice(), f.machines.Bits()
	block[network/8-1] += byte(7 + number)
	address, _ := netip.AddrFromSlice(block)
	return netip.PrefixFrom(address, network)
}

// allPods are those of every node.
func (f family) allPods() netip.Prefix {
	return netip.PrefixFrom(f.pods(1).Addr(), f.machines.Bits()-3)
}

// listed is what programs are told of both families.
func listed[T fmt.Stringer](of [2]family, what func(family) T) string {
	return what(of[0]).String() + "," + what(of[1]).String()
}
