package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"weir-cluster/internal/machine"
	"weir-cluster/internal/pki"
)

// credentials writes every key, certificate and kubeconfig of the cluster.
func (c *Cluster) credentials() error {
	at := plan(c.Slot)
	authority, err := pki.New(c.pki(""))
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	if err := authority.TokenKey("service-accounts"); err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	identities := map[string]pki.Identity{
		"admin": {Name: "kubernetes-admin", Group: "system:masters"},
		"kube-apiserver": {
			Name: "kube-apiserver",
			DNS: []string{
				"kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc.cluster.local", "localhost",
			},
			IPs: []net.IP{at.api.AsSlice(), at.control.AsSlice(), net.IPv4(127, 0, 0, 1)},
		},
		"kubelet-client":          {Name: "kube-apiserver-kubelet-client", Group: "system:masters"},
		"kube-controller-manager": {Name: "system:kube-controller-manager"},
		"kube-scheduler":          {Name: "system:kube-scheduler"},
		"kube-proxy":              {Name: "system:kube-proxy"},
		"load-balancer":           {Name: "load-balancer", Group: "system:masters"},
		NetworkPolicies:           {Name: NetworkPolicies, Group: "system:masters"},
	}
	for number := 1; number <= c.Nodes; number++ {
		identities[c.machineName(number)] = pki.Identity{
			Name:  "system:node:" + c.nodeName(number),
			Group: "system:nodes",
			DNS:   []string{c.nodeName(number)},
			IPs:   []net.IP{at.node(number).AsSlice()},
		}
	}
	for name, identity := range identities {
		if err := authority.Issue(name, identity); err != nil {
			return fmt.Errorf("certificate of %s: %w", name, err)
		}
		if err := c.writeKubeconfig(name); err != nil {
			return err
		}
	}
	return c.writeAdminKubeconfig(c.Kubeconfig())
}

// controlPlane are the programs of the control machine that can start at once.
func (c *Cluster) controlPlane() []machine.Program {
	at := plan(c.Slot)
	return []machine.Program{
		{Name: "etcd", Args: []string{
			"--data-dir=" + c.conf("machines/control/etcd"),
			"--listen-client-urls=http://127.0.0.1:2379",
			"--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380",
			// A cluster for tests may lose everything when the host does.
			"--unsafe-no-fsync",
		}},
		{Name: "kube-apiserver", Args: []string{
			"--etcd-servers=http://127.0.0.1:2379",
			"--advertise-address=" + at.control.String(),
			"--secure-port=6443",
			"--tls-cert-file=" + c.pki("kube-apiserver.crt"),
			"--tls-private-key-file=" + c.pki("kube-apiserver.key"),
			"--client-ca-file=" + c.pki("ca.crt"),
			"--kubelet-certificate-authority=" + c.pki("ca.crt"),
			"--kubelet-client-certificate=" + c.pki("kubelet-client.crt"),
			"--kubelet-client-key=" + c.pki("kubelet-client.key"),
			// Nothing resolves the names of nodes.
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file=" + c.pki("service-accounts.pub"),
			"--service-account-signing-key-file=" + c.pki("service-accounts.key"),
			"--service-cluster-ip-range=" + listed(at.both(), func(f family) netip.Prefix { return f.services }),
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true",
			"--profiling=false",
		}},
	}
}

// controllers are the programs of the control machine that need the API server.
func (c *Cluster) controllers() []machine.Program {
	manager := c.conf("kube-controller-manager.kubeconfig")
	scheduler := c.conf("kube-scheduler.kubeconfig")
	return []machine.Program{
		{Name: "kube-controller-manager", Args: []string{
			"--kubeconfig=" + manager,
			"--authentication-kubeconfig=" + manager,
			"--authorization-kubeconfig=" + manager,
			"--root-ca-file=" + c.pki("ca.crt"),
			"--cluster-signing-cert-file=" + c.pki("ca.crt"),
			"--cluster-signing-key-file=" + c.pki("ca.key"),
			"--service-account-private-key-file=" + c.pki("service-accounts.key"),
			"--use-service-account-credentials=true",
			// Its dozens of controllers start at once, each with a token to fetch; one API server and one
			// small cluster need no protection from that.
			"--kube-api-qps=500",
			"--kube-api-burst=1000",
			"--leader-elect=false",
			"--bind-address=127.0.0.1",
			"--profiling=false",
		}},
		{Name: "kube-scheduler", Args: []string{
			"--kubeconfig=" + scheduler,
			"--authentication-kubeconfig=" + scheduler,
			"--authorization-kubeconfig=" + scheduler,
			"--leader-elect=false",
			"--bind-address=127.0.0.1",
			"--profiling=false",
		}},
		{Name: LoadBalancer, Args: []string{
			"--kubeconfig=" + c.conf("load-balancer.kubeconfig"),
			"--pool=" + plan(c.Slot).balanced.String(),
			"--services=" + listed(plan(c.Slot).both(), func(f family) netip.Prefix { return f.services }),
		}},
	}
}

// writeKubeconfig is for a program of the cluster, which finds the certificates in files.
func (c *Cluster) writeKubeconfig(name string) error {
	content := kubeconfig(plan(c.Slot).control.String(), c.Name,
		"certificate-authority: "+c.pki("ca.crt"),
		"client-certificate: "+c.pki(name+".crt"),
		"client-key: "+c.pki(name+".key"),
	)
	return os.WriteFile(c.conf(name+".kubeconfig"), []byte(content), 0o600)
}

// writeAdminKubeconfig holds everything itself, so that it can be copied.
func (c *Cluster) writeAdminKubeconfig(path string) error {
	var data [3]string
	for i, file := range []string{"ca.crt", "admin.crt", "admin.key"} {
		content, err := os.ReadFile(c.pki(file))
		if err != nil {
			return err
		}
		data[i] = encode(content)
	}
	content := kubeconfig(plan(c.Slot).control.String(), c.Name,
		"certificate-authority-data: "+data[0],
		"client-certificate-data: "+data[1],
		"client-key-data: "+data[2],
	)
	return os.WriteFile(path, []byte(content), 0o600)
}
