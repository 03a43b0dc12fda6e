package cluster

import (
	"encoding/base64"
	"fmt"
)

func encode(content []byte) string { return base64.StdEncoding.EncodeToString(content) }

func kubeconfig(address, name, authority, certificate, key string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: %[2]s
contexts:
- name: %[2]s
  context: {cluster: %[2]s, user: %[2]s}
clusters:
- name: %[2]s
  cluster:
    server: https://%[1]s:6443
    %[3]s
users:
- name: %[2]s
  user:
    %[4]s
    %[5]s
`, address, name, authority, certificate, key)
}

// kubeletConfig leaves out what protects a machine that is not shared with a test run: limits of the
// disk, swap and reserved resources.
func (c *Cluster) kubeletConfig(number int) string {
	at := plan(c.Slot)
	folder := c.nodeFolder(number)
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %s
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %s}
authorization: {mode: Webhook}
tlsCertFile: %s
tlsPrivateKeyFile: %s
containerRuntimeEndpoint: unix://%s
resolvConf: %s
clusterDNS: [%s]
clusterDomain: cluster.local
cgroupDriver: cgroupfs
# A kubelet ends every container below its root that it does not know.
cgroupRoot: %s
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: {}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
serializeImagePulls: false
shutdownGracePeriod: 0s
# Tests wait for pods to become ready and to go away.
syncFrequency: 10s
nodeStatusUpdateFrequency: 4s
maxPods: 200
`, at.node(number), c.pki("ca.crt"),
		c.pki(c.machineName(number)+".crt"), c.pki(c.machineName(number)+".key"),
		c.containerd(number), folder+"/resolv.conf", at.dns, c.nodeCgroup(number))
}

func (c *Cluster) proxyConfig(number int) string {
	at := plan(c.Slot)
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: %s
clientConnection: {kubeconfig: %s}
bindAddress: %s
healthzBindAddress: %s:10256
metricsBindAddress: %s:10249
# What comes from elsewhere, such as the host and the API server, is answered through the node it came to.
detectLocalMode: ClusterCIDR
clusterCIDR: "%s"
# These settings belong to the host.
conntrack: {maxPerCore: 0, min: 0}
nftables: {minSyncPeriod: 10ms, syncPeriod: 30s}
`, c.nodeName(number), c.conf("kube-proxy.kubeconfig"), at.node(number), at.node(number), at.node(number),
		listed(at.both(), family.allPods))
}

func (c *Cluster) containerdConfig(number int, snapshotter, plugins string) string {
	folder := c.nodeFolder(number)
	return fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = %q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %q
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
`, folder+"/containerd", c.containerd(number), pauseImage, snapshotter, plugins, folder+"/cni")
}

// cniConfig gives each pod a cable to its node, which routes: there is no switch whose packets kube-proxy
// would not see.
func (c *Cluster) cniConfig(number int) string {
	return fmt.Sprintf(`{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "ptp",
      "ipam": {
        "type": %q,
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": %q}], [{"subnet": %q}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, podAddresses, plan(c.Slot).pods(number), plan(c.Slot).six.pods(number))
}
