package cluster

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	network "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// NetworkPolicies is the name of the program that has a node forward to and from pods what
// NetworkPolicies let pass, and nothing else.
const NetworkPolicies = "network-policies"

// enforcer keeps one nftables table. What pods of other nodes may do is in it as well: where it is asked
// twice, both nodes say the same.
type enforcer struct {
	informed informers.SharedInformerFactory
	// loaded is what the kernel has.
	loaded string
}

// Enforce runs until it fails.
func Enforce(args []string) error {
	flags := flag.NewFlagSet(NetworkPolicies, flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "of the cluster")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	e := &enforcer{informed: informers.NewSharedInformerFactory(client, 0)}
	return follow(context.Background(), e.informed, e.reconcile,
		e.informed.Networking().V1().NetworkPolicies().Informer(),
		e.informed.Core().V1().Namespaces().Informer(),
		e.informed.Core().V1().Pods().Informer(),
	)
}

func (e *enforcer) reconcile(ctx context.Context) error {
	policies, err := e.informed.Networking().V1().NetworkPolicies().Lister().List(labels.Everything())
	if err != nil {
		return err
	}
	namespaces, err := e.informed.Core().V1().Namespaces().Lister().List(labels.Everything())
	if err != nil {
		return err
	}
	pods, err := e.informed.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil {
		return err
	}
	table, err := policyTable(policies, &inhabitants{namespaces, pods})
	if err != nil || table == e.loaded {
		return err
	}
	load := exec.CommandContext(ctx, "nft", "-f", "-")
	load.Stdin = strings.NewReader(table)
	if output, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, output)
	}
	e.loaded = table
	return nil
}

// policyTable is the table of nftables that enforces policies. Connections that are there stay.
func policyTable(policies []*network.NetworkPolicy, all *inhabitants) (string, error) {
	slices.SortFunc(policies, func(x, y *network.NetworkPolicy) int {
		return strings.Compare(x.Namespace+"/"+x.Name, y.Namespace+"/"+y.Name)
	})
	ingress, egress := direction{own: "daddr"}, direction{own: "saddr"}
	for _, policy := range policies {
		pods, err := all.ofNamespace(policy.Namespace, &policy.Spec.PodSelector)
		if err != nil {
			return "", err
		}
		if slices.Contains(policy.Spec.PolicyTypes, network.PolicyTypeIngress) {
			ingress.isolate(pods)
			for _, rule := range policy.Spec.Ingress {
				peers, err := all.clauses("saddr", policy.Namespace, rule.From)
				if err != nil {
					return "", err
				}
				ingress.allow(pods, peers, all.ports(rule.Ports))
			}
		}
		if slices.Contains(policy.Spec.PolicyTypes, network.PolicyTypeEgress) {
			egress.isolate(pods)
			for _, rule := range policy.Spec.Egress {
				peers, err := all.clauses("daddr", policy.Namespace, rule.To)
				if err != nil {
					return "", err
				}
				egress.allow(pods, peers, all.ports(rule.Ports))
			}
		}
	}
	return fmt.Sprintf(`add table inet %[1]s
delete table inet %[1]s
table inet %[1]s {
	chain egress {
%[2]s	}
	chain ingress {
%[3]s	}
	chain forward {
		type filter hook forward priority filter
		ct state established,related accept
%[4]s%[5]s	}
}
`, NetworkPolicies, egress.chain(), ingress.chain(), egress.jump("egress"), ingress.jump("ingress")), nil
}

// direction is what comes to pods, or what leaves them.
type direction struct {
	// own is the pod's end of a packet: saddr or daddr.
	own      string
	isolated []string
	allowed  []string
}

func (d *direction) isolate(addresses []string) {
	d.isolated = append(d.isolated, addresses...)
}

// allow lets every combination pass.
func (d *direction) allow(addresses, peers, ports []string) {
	if len(addresses) == 0 {
		return
	}
	for _, own := range matches(d.own, addresses) {
		for _, peer := range peers {
			for _, port := range ports {
				if ofOneFamily(own, peer, port) {
					d.allowed = append(d.allowed, strings.Join([]string{own, peer, port}, " "))
				}
			}
		}
	}
}

func (d *direction) chain() string {
	var chain strings.Builder
	for _, match := range d.allowed {
		fmt.Fprintf(&chain, "\t\t%s return\n", match)
	}
	// Whoever is refused learns of it at once.
	chain.WriteString("\t\treject with icmpx admin-prohibited\n")
	return chain.String()
}

func (d *direction) jump(chain string) string {
	var jumps strings.Builder
	for _, own := range matches(d.own, d.isolated) {
		fmt.Fprintf(&jumps, "\t\t%s jump %s\n", own, chain)
	}
	return jumps.String()
}

// ofOneFamily tells whether there are packets that clauses match together: nftables refuses a rule that
// asks for both families.
func ofOneFamily(clauses ...string) bool {
	var four, six bool
	for _, clause := range clauses {
		four = four || strings.HasPrefix(clause, "ip ")
		six = six || strings.HasPrefix(clause, "ip6 ")
	}
	return !four || !six
}

// matches are for one end of a packet, one for each family that there are addresses of.
func matches(end string, addresses []string) []string {
	isSix := func(address string) bool { return strings.Contains(address, ":") }
	var matches []string
	four := slices.DeleteFunc(slices.Clone(addresses), isSix)
	if len(four) > 0 {
		matches = append(matches, fmt.Sprintf("ip %s %s", end, set(four)))
	}
	six := slices.DeleteFunc(slices.Clone(addresses), func(address string) bool { return !isSix(address) })
	if len(six) > 0 {
		matches = append(matches, fmt.Sprintf("ip6 %s %s", end, set(six)))
	}
	return matches
}

// inhabitants are who policies may speak of.
type inhabitants struct {
	namespaces []*core.Namespace
	pods       []*core.Pod
}

// addresses of the pods that are chosen. Pods of the node's network are the node.
func (all *inhabitants) addresses(chosen func(*core.Pod) bool) []string {
	var addresses []string
	for _, pod := range all.pods {
		ended := pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed
		if !pod.Spec.HostNetwork && !ended && chosen(pod) {
			addresses = append(addresses, addressesOf(pod)...)
		}
	}
	return addresses
}

func addressesOf(pod *core.Pod) []string {
	var addresses []string
	for _, address := range pod.Status.PodIPs {
		addresses = append(addresses, address.IP)
	}
	return addresses
}

func (all *inhabitants) ofNamespace(namespace string, pods *meta.LabelSelector) ([]string, error) {
	selector, err := meta.LabelSelectorAsSelector(pods)
	if err != nil {
		return nil, err
	}
	return all.addresses(func(pod *core.Pod) bool {
		return pod.Namespace == namespace && selector.Matches(labels.Set(pod.Labels))
	}), nil
}

// clauses match the other end of a packet, each in a rule of its own; without peers that is anybody.
func (all *inhabitants) clauses(end, namespace string, peers []network.NetworkPolicyPeer) ([]string, error) {
	if len(peers) == 0 {
		return []string{""}, nil
	}
	var clauses []string
	for _, peer := range peers {
		if block := peer.IPBlock; block != nil {
			family := "ip"
			if strings.Contains(block.CIDR, ":") {
				family = "ip6"
			}
			clause := fmt.Sprintf("%s %s %s", family, end, block.CIDR)
			if len(block.Except) > 0 {
				clause += fmt.Sprintf(" %s %s != %s", family, end, set(block.Except))
			}
			clauses = append(clauses, clause)
			continue
		}
		addresses, err := all.peers(namespace, peer)
		if err != nil {
			return nil, err
		}
		clauses = append(clauses, matches(end, addresses)...)
	}
	return clauses, nil
}

func (all *inhabitants) peers(namespace string, peer network.NetworkPolicyPeer) ([]string, error) {
	pods := peer.PodSelector
	if pods == nil {
		pods = &meta.LabelSelector{}
	}
	if peer.NamespaceSelector == nil {
		return all.ofNamespace(namespace, pods)
	}
	selector, err := meta.LabelSelectorAsSelector(peer.NamespaceSelector)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, namespace := range all.namespaces {
		if !selector.Matches(labels.Set(namespace.Labels)) {
			continue
		}
		found, err := all.ofNamespace(namespace.Name, pods)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, found...)
	}
	return addresses, nil
}

// ports match where a packet goes; without ports that is anywhere.
func (all *inhabitants) ports(ports []network.NetworkPolicyPort) []string {
	if len(ports) == 0 {
		return []string{""}
	}
	var clauses []string
	for _, port := range ports {
		protocol := "tcp"
		if port.Protocol != nil {
			protocol = strings.ToLower(string(*port.Protocol))
		}
		switch {
		case port.Port == nil:
			clauses = append(clauses, "meta l4proto "+protocol)
		case port.Port.StrVal != "":
			clauses = append(clauses, all.named(protocol, port.Port.StrVal)...)
		case port.EndPort != nil:
			clauses = append(clauses, fmt.Sprintf("%s dport %d-%d", protocol, port.Port.IntVal, *port.EndPort))
		default:
			clauses = append(clauses, fmt.Sprintf("%s dport %d", protocol, port.Port.IntVal))
		}
	}
	return clauses
}

// named match the ports of that name, each with its pod's address.
func (all *inhabitants) named(protocol, name string) []string {
	found := map[string][]string{}
	for _, pod := range all.pods {
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, port := range container.Ports {
				if port.Name != name || !strings.EqualFold(string(port.Protocol), protocol) {
					continue
				}
				for _, address := range addressesOf(pod) {
					family := "ip"
					if strings.Contains(address, ":") {
						family = "ip6"
					}
					found[family] = append(found[family], fmt.Sprintf("%s . %d", address, port.ContainerPort))
				}
			}
		}
	}
	var clauses []string
	for _, family := range slices.Sorted(maps.Keys(found)) {
		clauses = append(clauses, fmt.Sprintf("%s daddr . %s dport %s", family, protocol, set(found[family])))
	}
	return clauses
}

// set is one of nftables; the same members are the same text.
func set(members []string) string {
	members = slices.Clone(members)
	slices.Sort(members)
	return "{ " + strings.Join(slices.Compact(members), ", ") + " }"
}
