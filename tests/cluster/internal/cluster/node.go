package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"weir-cluster/internal/image"
	"weir-cluster/internal/machine"
)

const (
	pauseImage = "weir.test/pause:1"
	dnsImage   = "weir.test/coredns:1"
)

// overlayMagic is what statfs tells of an overlay file system.
const overlayMagic = 0x794c7630

// pluginFolders are where distributions and others install the CNI plugins.
var pluginFolders = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

func (c *Cluster) nodeFolder(number int) string {
	return filepath.Join(c.machineFolder(), c.machineName(number))
}

func (c *Cluster) containerd(number int) string {
	return filepath.Join(c.nodeFolder(number), "containerd.sock")
}

func (c *Cluster) nodeCgroup(number int) string {
	return filepath.Join(c.cgroup(), c.machineName(number))
}

// configureNode writes the files that a node's programs read.
func (c *Cluster) configureNode(number int) error {
	folder := c.nodeFolder(number)
	plugins, err := linkPlugins(filepath.Join(folder, "cni-bin"))
	if err != nil {
		return err
	}
	if err := addPlugins(plugins); err != nil {
		return err
	}
	snapshotter, err := snapshotter(c.Folder())
	if err != nil {
		return err
	}
	files := map[string]string{
		"kubelet.yaml":      c.kubeletConfig(number),
		"kube-proxy.yaml":   c.proxyConfig(number),
		"containerd.toml":   c.containerdConfig(number, snapshotter, plugins),
		"cni/pods.conflist": c.cniConfig(number),
		// Pods with the node's DNS settings have no name server: there is nothing outside.
		"resolv.conf": "options ndots:1\n",
	}
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// linkPlugins gives a node a folder of its own with the host's plugins, so that what is installed on the
// node is not installed on the host.
func linkPlugins(folder string) (string, error) {
	plugins, err := pluginFolder()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(plugins)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		link := filepath.Join(folder, entry.Name())
		err := os.Symlink(filepath.Join(plugins, entry.Name()), link)
		if err != nil && !os.IsExist(err) {
			return "", err
		}
	}
	return folder, nil
}

func pluginFolder() (string, error) {
	for _, folder := range pluginFolders {
		if _, err := os.Stat(filepath.Join(folder, "ptp")); err == nil {
			return folder, nil
		}
	}
	return "", fmt.Errorf("no CNI plugins in any of %v (Debian: containernetworking-plugins)", pluginFolders)
}

// snapshotter of containerd: an overlay cannot lie on another one, such as a container's root.
func snapshotter(folder string) (string, error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(folder, &stat); err != nil {
		return "", err
	}
	if stat.Type == overlayMagic {
		return "native", nil
	}
	return "overlayfs", nil
}

// startNode starts a node's programs. The kubelet and kube-proxy try again until there is an API server.
func (c *Cluster) startNode(ctx context.Context, node *machine.Machine, number int) error {
	containerd, err := exec.LookPath("containerd")
	if err != nil {
		return err
	}
	folder := c.nodeFolder(number)
	if err := node.Start(machine.Program{Name: "containerd", Path: containerd, Args: []string{
		"--config=" + folder + "/containerd.toml",
	}}); err != nil {
		return err
	}
	if err := c.awaitContainerd(ctx, number); err != nil {
		return err
	}
	programs, err := companions()
	if err != nil {
		return err
	}
	for _, spec := range []image.Spec{
		{Name: pauseImage, Programs: []string{filepath.Join(programs, "pause")}},
		{Name: dnsImage, Programs: []string{filepath.Join(programs, "coredns")}},
	} {
		if err := c.importImage(number, spec); err != nil {
			return err
		}
	}
	if err := node.Start(machine.Program{Name: "kubelet", Args: []string{
		"--config=" + folder + "/kubelet.yaml",
		"--kubeconfig=" + c.conf(c.machineName(number)+".kubeconfig"),
		"--root-dir=" + folder + "/kubelet",
		"--hostname-override=" + c.nodeName(number),
		"--node-ip=" + listed(plan(c.Slot).both(), func(f family) netip.Addr { return f.node(number) }),
		"--node-labels=" + c.labels(number),
	}}); err != nil {
		return err
	}
	if err := node.Start(machine.Program{Name: "kube-proxy", Args: []string{
		"--config=" + folder + "/kube-proxy.yaml",
	}}); err != nil {
		return err
	}
	return node.Start(machine.Program{Name: NetworkPolicies, Args: []string{
		"--kubeconfig=" + c.conf(NetworkPolicies+".kubeconfig"),
	}})
}

// companions is the folder of the programs that are built beside this one.
func companions() (string, error) {
	executable, err := os.Executable()
	return filepath.Dir(executable), err
}

// labels place each node in a zone of its own, of one region.
func (c *Cluster) labels(number int) string {
	return fmt.Sprintf("topology.kubernetes.io/region=region1,topology.kubernetes.io/zone=zone%d", number)
}

func (c *Cluster) awaitContainerd(ctx context.Context, number int) error {
	return poll(ctx, "containerd", 30*time.Second, func() error {
		connection, err := net.Dial("unix", c.containerd(number))
		if err != nil {
			return err
		}
		return connection.Close()
	})
}

// importImage makes an image and gives it to a node.
func (c *Cluster) importImage(number int, spec image.Spec) error {
	command := exec.Command("ctr", "--address", c.containerd(number), "--namespace", "k8s.io",
		"images", "import", "-")
	input, err := command.StdinPipe()
	if err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() {
		err := image.Write(input, spec)
		input.Close()
		written <- err
	}()
	output, err := command.CombinedOutput()
	if failed := <-written; failed != nil && err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("import %s: %w: %s", spec.Name, err, output)
	}
	return nil
}

// LoadImage makes an image and gives it to every node.
func (c *Cluster) LoadImage(spec image.Spec) error {
	for number := 1; number <= c.Nodes; number++ {
		if err := c.importImage(number, spec); err != nil {
			return err
		}
	}
	return nil
}
