package cluster

import (
	"fmt"
	"io"
	"path/filepath"
)

// Names of the clusters there are.
func Names() ([]string, error) {
	records, err := filepath.Glob(filepath.Join(parent, "*", "cluster.json"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, record := range records {
		names = append(names, filepath.Base(filepath.Dir(record)))
	}
	return names, nil
}

// Describe writes what runs of a cluster.
func (c *Cluster) Describe(to io.Writer) error {
	fmt.Fprintf(to, "cluster %s, KUBECONFIG=%s\n", c.Name, c.Kubeconfig())
	names := []string{Control}
	for number := 1; number <= c.Nodes; number++ {
		names = append(names, c.machineName(number))
	}
	for _, name := range names {
		m, err := c.Machine(name)
		if err != nil {
			fmt.Fprintf(to, "  %s is not running\n", name)
			continue
		}
		programs, err := m.Programs()
		if err != nil {
			return err
		}
		fmt.Fprintf(to, "  %s, process %d\n", m.Name, m.Pid)
		for _, program := range programs {
			state := "running"
			switch {
			case !program.Wanted:
				state = "stopped"
			case program.Pid == 0:
				state = "ended"
			}
			fmt.Fprintf(to, "    %-24s %s", program.Name, state)
			if program.Exits > 0 {
				fmt.Fprintf(to, ", started again %d times, last: %s", program.Exits, program.LastExit)
			}
			fmt.Fprintln(to)
		}
	}
	return nil
}
