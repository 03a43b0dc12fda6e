package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"weir-cluster/internal/machine"
)

// hostLink is the host's end of the cable to a cluster.
func (c *Cluster) hostLink() string { return fmt.Sprintf("weir-c%d", c.Slot) }

const bridge = "machines"

// chooseSlot takes the first addresses that no other cluster and no route of the host uses. The caller
// holds the lock of all clusters.
func chooseSlot(except string) (int, error) {
	taken := map[int]bool{}
	records, err := filepath.Glob(filepath.Join(parent, "*", "cluster.json"))
	if err != nil {
		return 0, err
	}
	for _, record := range records {
		name := filepath.Base(filepath.Dir(record))
		if other, err := Load(name); err == nil && name != except {
			taken[other.Slot] = true
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, fmt.Errorf("routes of the host: %w", err)
	}
	for slot := range slots {
		if !taken[slot] && !routed(routes, plan(slot).all) {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("all of 198.18.0.0/15 is in use: by clusters (weir-cluster down) or by routes of this host")
}

func routed(routes []netlink.Route, prefix netip.Prefix) bool {
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		address, _ := netip.AddrFromSlice(route.Dst.IP.To4())
		bits, _ := route.Dst.Mask.Size()
		// The default route goes everywhere and nowhere in particular.
		if bits > 0 && prefix.Overlaps(netip.PrefixFrom(address, bits)) {
			return true
		}
	}
	return false
}

// inside is the network of a machine.
func inside(m *machine.Machine) (*netlink.Handle, error) {
	space, err := netns.GetFromPid(m.Pid)
	if err != nil {
		return nil, fmt.Errorf("network of %s: %w", m.Name, err)
	}
	defer space.Close()
	return netlink.NewHandleAt(space)
}

// connectControl lays the cable from the host to the control machine, which switches and routes.
func (c *Cluster) connectControl(control *machine.Machine) error {
	at := plan(c.Slot)
	host, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	there, err := inside(control)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := up(there, "lo"); err != nil {
		return err
	}
	if err := there.LinkAdd(&netlink.Bridge{LinkAttrs: attributes(bridge)}); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := assign(there, bridge, at.both(), func(f family) netip.Addr { return f.control }); err != nil {
		return err
	}
	if err := cable(host, c.hostLink(), control, "host"); err != nil {
		return err
	}
	if err := plug(there, "host"); err != nil {
		return err
	}
	if err := assign(host, c.hostLink(), at.both(), func(f family) netip.Addr { return f.host }); err != nil {
		return err
	}
	for _, family := range at.both() {
		if err := route(host, family.all, family.control); err != nil {
			return err
		}
	}
	return nil
}

// connectNode lays the cable from a node to the control machine.
func (c *Cluster) connectNode(control, node *machine.Machine, number int) error {
	at := plan(c.Slot)
	switching, err := inside(control)
	if err != nil {
		return err
	}
	defer switching.Close()
	there, err := inside(node)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := up(there, "lo"); err != nil {
		return err
	}
	if err := cable(switching, node.Name, node, "eth0"); err != nil {
		return err
	}
	if err := plug(switching, node.Name); err != nil {
		return err
	}
	if err := assign(there, "eth0", at.both(), func(f family) netip.Addr { return f.node(number) }); err != nil {
		return err
	}
	for _, family := range at.both() {
		// Its own pods have routes of their own. Without a default route, what is not here fails at once
		// instead of after a time-out.
		if err := route(there, family.all, family.control); err != nil {
			return err
		}
		if err := route(switching, family.pods(number), family.node(number)); err != nil {
			return err
		}
	}
	return nil
}

func attributes(name string) netlink.LinkAttrs {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	return attributes
}

// cable adds a pair of devices: one here, the other one in a machine.
func cable(here *netlink.Handle, name string, there *machine.Machine, peer string) error {
	pair := &netlink.Veth{LinkAttrs: attributes(name), PeerName: peer, PeerNamespace: netlink.NsPid(there.Pid)}
	if err := here.LinkAdd(pair); err != nil {
		return fmt.Errorf("cable %s: %w", name, err)
	}
	return nil
}

// plug connects a device to the bridge.
func plug(there *netlink.Handle, name string) error {
	device, err := there.LinkByName(name)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	hub, err := there.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := there.LinkSetMaster(device, hub); err != nil {
		return fmt.Errorf("plug %s: %w", name, err)
	}
	return there.LinkSetUp(device)
}

func up(there *netlink.Handle, name string) error {
	device, err := there.LinkByName(name)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	return there.LinkSetUp(device)
}

func assign(there *netlink.Handle, name string, families [2]family, address func(family) netip.Addr) error {
	device, err := there.LinkByName(name)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	for _, family := range families {
		own := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address(family), family.machines.Bits()))}
		if address(family).Is6() {
			// Nobody else has it: it can be used at once.
			own.Flags = unix.IFA_F_NODAD
		}
		if err := there.AddrAdd(device, own); err != nil {
			return fmt.Errorf("address of %s: %w", name, err)
		}
	}
	return there.LinkSetUp(device)
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}
}

func route(there *netlink.Handle, to netip.Prefix, via netip.Addr) error {
	if err := there.RouteReplace(routeTo(to, via)); err != nil {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	return nil
}

func routeTo(to netip.Prefix, via netip.Addr) *netlink.Route {
	return &netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}
}

// unplug removes the host's end of the cable, if it is still there: it goes with the other end, and the
// kernel takes that away a moment after the last process of its namespace.
func (c *Cluster) unplug() error {
	device, err := netlink.LinkByName(c.hostLink())
	if _, gone := err.(netlink.LinkNotFoundError); gone {
		return nil
	}
	if err != nil {
		return err
	}
	if err := netlink.LinkDel(device); !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}
