package cluster

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// LoadBalancer is the name of the program that gives Services their outside addresses and keeps the
// routes to them.
const LoadBalancer = "load-balancer"

// balancer does for a cluster what a cloud does: Services of type LoadBalancer get an address of the
// pool, and packets to it get to a node that answers.
type balancer struct {
	client   kubernetes.Interface
	pool     netip.Prefix
	services []netip.Prefix
	informed informers.SharedInformerFactory
	// routes that are set, by where they lead to.
	routes map[netip.Prefix]netip.Addr
}

// Balance runs until it fails.
func Balance(args []string) error {
	flags := flag.NewFlagSet(LoadBalancer, flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "of the cluster")
	pool := flags.String("pool", "", "addresses to give")
	services := flags.String("services", "", "addresses of the cluster's Services, of both families")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	b := &balancer{routes: map[netip.Prefix]netip.Addr{}}
	if b.pool, err = netip.ParsePrefix(*pool); err != nil {
		return err
	}
	for _, text := range strings.Split(*services, ",") {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		b.services = append(b.services, prefix)
	}
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	b.informed = informers.NewSharedInformerFactory(b.client, 0)
	return follow(context.Background(), b.informed, b.reconcile,
		b.informed.Core().V1().Services().Informer(),
		b.informed.Core().V1().Nodes().Informer(),
		b.informed.Discovery().V1().EndpointSlices().Informer(),
	)
}

func (b *balancer) reconcile(ctx context.Context) error {
	services, err := b.informed.Core().V1().Services().Lister().List(labels.Everything())
	if err != nil {
		return err
	}
	// The oldest first, so that two of them never change places.
	slices.SortFunc(services, func(x, y *core.Service) int {
		return x.CreationTimestamp.Compare(y.CreationTimestamp.Time)
	})
	nodes, err := b.readyNodes(netip.Addr.Is4)
	if err != nil || len(nodes) == 0 {
		return err
	}
	nodes6, err := b.readyNodes(netip.Addr.Is6)
	if err != nil {
		return err
	}
	name := slices.Min(slices.Collect(maps.Keys(nodes)))
	first := nodes[name]
	wanted := map[netip.Prefix]netip.Addr{}
	for _, services := range b.services {
		via := first
		if services.Addr().Is6() {
			via = nodes6[name]
		}
		if via.IsValid() {
			wanted[services] = via
		}
	}
	given := b.given(services)
	for _, service := range services {
		address, err := b.assign(ctx, service, given)
		if err != nil {
			return err
		}
		if !address.IsValid() {
			continue
		}
		via, err := b.answers(service, nodes, first)
		if err != nil {
			return err
		}
		wanted[netip.PrefixFrom(address, 32)] = via
	}
	return b.route(wanted)
}

// readyNodes are the addresses of nodes by name, those of one family.
func (b *balancer) readyNodes(ofFamily func(netip.Addr) bool) (map[string]netip.Addr, error) {
	nodes, err := b.informed.Core().V1().Nodes().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	ready := map[string]netip.Addr{}
	for _, node := range nodes {
		if !isReady(node) {
			continue
		}
		for _, address := range node.Status.Addresses {
			if address.Type != core.NodeInternalIP {
				continue
			}
			parsed, err := netip.ParseAddr(address.Address)
			if err != nil {
				return nil, err
			}
			if ofFamily(parsed) {
				ready[node.Name] = parsed
			}
		}
	}
	return ready, nil
}

func isReady(node *core.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(condition core.NodeCondition) bool {
		return condition.Type == core.NodeReady && condition.Status == core.ConditionTrue
	})
}

// given are the addresses that Services have.
func (b *balancer) given(services []*core.Service) map[netip.Addr]bool {
	given := map[netip.Addr]bool{}
	for _, service := range services {
		if address := balancedAt(service); address.IsValid() {
			given[address] = true
		}
	}
	return given
}

func balancedAt(service *core.Service) netip.Addr {
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if address, err := netip.ParseAddr(ingress.IP); err == nil {
			return address
		}
	}
	return netip.Addr{}
}

// assign returns a Service's address, after it was given one if it has none and should. The result is
// not valid for a Service without.
func (b *balancer) assign(ctx context.Context, service *core.Service, given map[netip.Addr]bool) (netip.Addr, error) {
	balanced := service.Spec.Type == core.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil
	address := balancedAt(service)
	if balanced == address.IsValid() {
		return address, nil
	}
	changed := service.DeepCopy()
	if !balanced {
		changed.Status.LoadBalancer = core.LoadBalancerStatus{}
		address = netip.Addr{}
	} else {
		var err error
		if address, err = b.free(service.Spec.LoadBalancerIP, given); err != nil {
			return address, fmt.Errorf("service %s/%s: %w", service.Namespace, service.Name, err)
		}
		given[address] = true
		mode := core.LoadBalancerIPModeVIP
		changed.Status.LoadBalancer.Ingress = []core.LoadBalancerIngress{{IP: address.String(), IPMode: &mode}}
	}
	_, err := b.client.CoreV1().Services(service.Namespace).UpdateStatus(ctx, changed, meta.UpdateOptions{})
	return address, err
}

func (b *balancer) free(asked string, given map[netip.Addr]bool) (netip.Addr, error) {
	if asked != "" {
		address, err := netip.ParseAddr(asked)
		if err != nil || !b.pool.Contains(address) || given[address] {
			return netip.Addr{}, fmt.Errorf("%s is not a free address of %s", asked, b.pool)
		}
		return address, nil
	}
	for address := b.pool.Addr().Next(); b.pool.Contains(address); address = address.Next() {
		if !given[address] {
			return address, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("all addresses of %s are in use", b.pool)
}

// answers is the node that packets for a Service go to: with the external traffic policy `Local` a node
// without an endpoint drops them.
func (b *balancer) answers(service *core.Service, nodes map[string]netip.Addr, otherwise netip.Addr) (netip.Addr, error) {
	if service.Spec.ExternalTrafficPolicy != core.ServiceExternalTrafficPolicyLocal {
		return otherwise, nil
	}
	ofService := labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: service.Name})
	endpoints, err := b.informed.Discovery().V1().EndpointSlices().Lister().EndpointSlices(service.Namespace).List(ofService)
	if err != nil {
		return otherwise, err
	}
	var names []string
	for _, slice := range endpoints {
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
			if ready && endpoint.NodeName != nil && nodes[*endpoint.NodeName].IsValid() {
				names = append(names, *endpoint.NodeName)
			}
		}
	}
	if len(names) == 0 {
		return otherwise, nil
	}
	return nodes[slices.Min(names)], nil
}

// route makes the machine's routes those wanted.
func (b *balancer) route(wanted map[netip.Prefix]netip.Addr) error {
	here, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer here.Close()
	for to, via := range wanted {
		if b.routes[to] == via {
			continue
		}
		if err := route(here, to, via); err != nil {
			return err
		}
		b.routes[to] = via
	}
	for to, via := range b.routes {
		if _, stays := wanted[to]; stays {
			continue
		}
		if err := here.RouteDel(routeTo(to, via)); err != nil {
			return fmt.Errorf("remove route to %s: %w", to, err)
		}
		delete(b.routes, to)
	}
	return nil
}
