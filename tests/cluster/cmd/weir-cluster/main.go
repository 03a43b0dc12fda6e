// Command weir-cluster runs Kubernetes clusters for tests on one Linux host: real control planes, real
// kubelets, real containers, in namespaces that leave no trace. It is also every program of such a
// cluster that does not come with the distribution.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"weir-cluster/internal/cluster"
	"weir-cluster/internal/image"
	"weir-cluster/internal/machine"
	"weir-cluster/internal/parts"
)

const usage = `Usage:
  weir-cluster up [--name NAME] [--nodes N] [--kubeconfig FILE] [--owner PID]
  weir-cluster down [--name NAME]
  weir-cluster status [--name NAME]
  weir-cluster load-image [--name NAME] --image IMAGE PROGRAM... [-- ARGUMENT...]
  weir-cluster stop|resume [--name NAME] MACHINE PROGRAM
  weir-cluster halt [--name NAME] MACHINE
  weir-cluster possible
  weir-cluster PART ARGUMENT...      PART is one of: %s
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintf(os.Stderr, usage, parts.Names())
		os.Exit(2)
	}
	name, args := os.Args[1], os.Args[2:]
	parts.Run(name, args)
	command, known := commands[name]
	if !known {
		fmt.Fprintf(os.Stderr, usage, parts.Names())
		os.Exit(2)
	}
	if err := command(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var commands = map[string]func([]string) error{
	"up":         up,
	"down":       named(func(name string, _ []string) error { return cluster.Down(name) }),
	"status":     named(status),
	"load-image": loadImage,
	"possible":   func([]string) error { return cluster.Possible() },
	"stop":       onMachine((*machine.Machine).Stop),
	"resume":     onMachine((*machine.Machine).Resume),
	"halt":       onMachine(func(m *machine.Machine, _ string) error { return m.Halt() }),

	// What the processes of a cluster are.
	machine.InitArgument:    func(args []string) error { return machine.Init(args[0]) },
	cluster.LoadBalancer:    cluster.Balance,
	cluster.NetworkPolicies: cluster.Enforce,
	cluster.WatchArgument: func(args []string) error {
		return cluster.WatchOwner(args[0], args[1])
	},
}

func nameFlag(flags *flag.FlagSet) *string {
	return flags.String("name", "weir", "name of the cluster")
}

func up(args []string) error {
	flags := flag.NewFlagSet("up", flag.ExitOnError)
	options := cluster.Options{Progress: os.Stderr}
	name := nameFlag(flags)
	flags.IntVar(&options.Nodes, "nodes", 1, "number of nodes")
	flags.StringVar(&options.Kubeconfig, "kubeconfig", "", "where to write a copy of the kubeconfig")
	flags.IntVar(&options.Owner, "owner", 0, "take the cluster away when this process ends")
	if err := flags.Parse(args); err != nil {
		return err
	}
	options.Name = *name
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c, err := cluster.Up(ctx, options)
	if err != nil {
		return err
	}
	fmt.Printf("KUBECONFIG=%s\n", c.Kubeconfig())
	return nil
}

// named is a command whose only flag is the cluster's name.
func named(run func(name string, args []string) error) func([]string) error {
	return func(args []string) error {
		flags := flag.NewFlagSet("weir-cluster", flag.ExitOnError)
		name := nameFlag(flags)
		if err := flags.Parse(args); err != nil {
			return err
		}
		return run(*name, flags.Args())
	}
}

func onMachine(act func(*machine.Machine, string) error) func([]string) error {
	return named(func(name string, args []string) error {
		if len(args) == 0 || len(args) > 2 {
			return fmt.Errorf("a machine and, to stop or resume, one of its programs are needed")
		}
		c, err := cluster.Load(name)
		if err != nil {
			return err
		}
		m, err := c.Machine(args[0])
		if err != nil {
			return err
		}
		return act(m, strings.Join(args[1:], ""))
	})
}

func status(name string, _ []string) error {
	c, err := cluster.Load(name)
	if err != nil {
		return err
	}
	return c.Describe(os.Stdout)
}

func loadImage(args []string) error {
	flags := flag.NewFlagSet("load-image", flag.ExitOnError)
	name := nameFlag(flags)
	var spec image.Spec
	flags.StringVar(&spec.Name, "image", "", "name and tag of the image")
	programs, rest, _ := cut(args)
	if err := flags.Parse(programs); err != nil {
		return err
	}
	spec.Programs, spec.Args = flags.Args(), rest
	if spec.Name == "" || len(spec.Programs) == 0 {
		return fmt.Errorf("--image and a program are needed")
	}
	c, err := cluster.Load(*name)
	if err != nil {
		return err
	}
	return c.LoadImage(spec)
}

// cut divides arguments at the first `--`.
func cut(args []string) (before, after []string, found bool) {
	for i, arg := range args {
		if arg == "--" {
			return args[:i], args[i+1:], true
		}
	}
	return args, nil, false
}
