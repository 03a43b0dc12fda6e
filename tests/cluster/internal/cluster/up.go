package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"weir-cluster/internal/machine"
)

// readyWithin is for a busy machine; an idle one needs about five seconds.
const readyWithin = 3 * time.Minute

//go:embed addons.yaml
var addons string

// Options of a cluster to bring up.
type Options struct {
	Name  string
	Nodes int
	// Kubeconfig is where a copy of the administrator's is written; empty for none.
	Kubeconfig string
	// Owner is the process with which the cluster ends; 0 for none.
	Owner int
	// Progress is told what is being done.
	Progress io.Writer
}

// Up makes a cluster whose nodes are Ready and whose DNS answers. What is left of one with that name is
// taken away before; after a failure nothing is left.
func Up(ctx context.Context, options Options) (*Cluster, error) {
	if err := Possible(); err != nil {
		return nil, err
	}
	if !validName.MatchString(options.Name) {
		return nil, fmt.Errorf("%q cannot be the name of a cluster: lower-case letters, digits and dashes", options.Name)
	}
	if options.Nodes < 1 || options.Nodes > MaxNodes {
		return nil, fmt.Errorf("a cluster has 1 to %d nodes", MaxNodes)
	}
	unlock, err := lockName(options.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := remove(&Cluster{Name: options.Name}); err != nil {
		return nil, fmt.Errorf("remove the cluster that was there: %w", err)
	}
	began := time.Now()
	tell := func(what string) {
		fmt.Fprintf(options.Progress, "%5.1fs %s\n", time.Since(began).Seconds(), what)
	}
	c, err := reserve(options)
	if err != nil {
		return nil, err
	}
	if err = c.bringUp(ctx, tell); err == nil {
		err = c.finish(options)
	}
	if err != nil {
		err = errors.Join(err, c.logsOfFailed())
		return nil, errors.Join(err, remove(c), forget(c.Name))
	}
	return c, nil
}

// reserve takes addresses and a folder.
func reserve(options Options) (*Cluster, error) {
	unlock, err := lockSlots()
	if err != nil {
		return nil, err
	}
	defer unlock()
	slot, err := chooseSlot(options.Name)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Name: options.Name, Slot: slot, Nodes: options.Nodes, Owner: options.Owner}
	if err := os.MkdirAll(c.machineFolder(), 0o755); err != nil {
		return nil, err
	}
	return c, c.save()
}

func (c *Cluster) bringUp(ctx context.Context, tell func(string)) error {
	tell("certificates")
	if err := c.credentials(); err != nil {
		return err
	}
	tell("control plane")
	control, err := c.boot(Control)
	if err != nil {
		return err
	}
	if err := c.connectControl(control); err != nil {
		return err
	}
	for _, program := range c.controlPlane() {
		if err := control.Start(program); err != nil {
			return err
		}
	}
	if err := c.makeCgroups(); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	var parts errgroup.Group
	for number := 1; number <= c.Nodes; number++ {
		parts.Go(func() error { return c.bringUpNode(ctx, control, number, tell) })
	}
	parts.Go(func() error { return c.bringUpControllers(ctx, client, control, tell) })
	if err := parts.Wait(); err != nil {
		return err
	}
	return c.awaitReady(ctx, client, tell)
}

func (c *Cluster) boot(name string) (*machine.Machine, error) {
	return machine.Boot(machine.Spec{
		Name:   name,
		Folder: filepath.Join(c.machineFolder(), name),
		Shared: c.Folder(),
	})
}

func (c *Cluster) bringUpNode(ctx context.Context, control *machine.Machine, number int, tell func(string)) error {
	if err := c.configureNode(number); err != nil {
		return err
	}
	node, err := c.boot(c.machineName(number))
	if err != nil {
		return err
	}
	if err := c.connectNode(control, node, number); err != nil {
		return err
	}
	if err := c.startNode(ctx, node, number); err != nil {
		return fmt.Errorf("%s: %w", c.nodeName(number), err)
	}
	tell(c.nodeName(number) + " started")
	return nil
}

func (c *Cluster) bringUpControllers(
	ctx context.Context, client kubernetes.Interface, control *machine.Machine, tell func(string),
) error {
	err := poll(ctx, "kube-apiserver", readyWithin, func() error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		return err
	}
	tell("API server ready")
	for _, program := range c.controllers() {
		if err := control.Start(program); err != nil {
			return err
		}
	}
	manifests := strings.NewReplacer(
		"{{dns}}", plan(c.Slot).dns.String(),
		"{{image}}", dnsImage,
	).Replace(addons)
	apply := exec.Command("/proc/self/exe", "kubectl", "--kubeconfig", c.Kubeconfig(), "apply", "--filename", "-")
	apply.Stdin = strings.NewReader(manifests)
	if output, err := apply.CombinedOutput(); err != nil {
		return fmt.Errorf("DNS: %w: %s", err, output)
	}
	return nil
}

// awaitReady waits for what users of a cluster take for granted.
func (c *Cluster) awaitReady(ctx context.Context, client kubernetes.Interface, tell func(string)) error {
	err := poll(ctx, "nodes", readyWithin, func() error {
		nodes, err := client.CoreV1().Nodes().List(ctx, meta.ListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, node := range nodes.Items {
			if isReady(&node) {
				ready++
			}
		}
		if ready < c.Nodes {
			return fmt.Errorf("%d of %d are Ready", ready, c.Nodes)
		}
		return nil
	})
	if err != nil {
		return err
	}
	tell("nodes Ready")
	err = poll(ctx, "DNS", readyWithin, func() error {
		deployment, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", meta.GetOptions{})
		if err != nil {
			return err
		}
		if deployment.Status.ReadyReplicas == 0 {
			return errors.New("its pod is not ready")
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = poll(ctx, "default service account", readyWithin, func() error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", meta.GetOptions{})
		return err
	})
	tell("DNS ready")
	return err
}

// finish hands the cluster over: to its owner's end, and to where the user wants its kubeconfig.
func (c *Cluster) finish(options Options) error {
	if options.Kubeconfig != "" {
		if err := c.writeAdminKubeconfig(options.Kubeconfig); err != nil {
			return err
		}
	}
	if c.Owner == 0 {
		return nil
	}
	return c.watchOwner()
}

// logsOfFailed is the end of the log of each program that did not stay alive, and of those that are
// asked for when nothing else tells what is wrong.
func (c *Cluster) logsOfFailed() error {
	machines, err := machine.Find(c.machineFolder())
	if err != nil {
		return err
	}
	var tails []error
	for _, m := range machines {
		programs, err := m.Programs()
		if err != nil {
			tails = append(tails, err)
		}
		for _, program := range programs {
			suspicious := program.Exits > 0 || slices.Contains([]string{"kubelet", "kube-apiserver"}, program.Name)
			if suspicious {
				tails = append(tails, fmt.Errorf("%s on %s, ended %d times (%s):\n%s",
					program.Name, m.Name, program.Exits, program.LastExit, tail(m.Log(program.Name), 20)))
			}
		}
	}
	return errors.Join(tails...)
}

func tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// poll asks until there is no error.
func poll(ctx context.Context, what string, within time.Duration, ask func() error) error {
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		err := ask()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted while waiting for %s", what)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s not ready within %s: %w", what, within, err)
		}
	}
}
