// Package machine runs what stands for a machine of its own: a process that is the first of its PID
// namespace, with its own network, mounts, host name and a supervisor of programs. When that process is
// killed, the kernel ends everything that ran in it and frees the namespaces and the mounts, so nothing
// can be left behind.
package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is a running machine, as seen from the host.
type Machine struct {
	Name string
	// Folder keeps its logs, its sockets and what stands for its disk.
	Folder string
	// Pid of its first process, in the namespace of the caller.
	Pid int
	// Started tells that process from a later one with the same pid: clock ticks since boot.
	Started uint64
}

// Program is what a machine is asked to run.
type Program struct {
	Name string
	// Path of the executable; empty for this one.
	Path string
	Args []string
}

// Spec is what the first process of a machine is told.
type Spec struct {
	Name   string
	Folder string
	// Shared is a folder that stays at its place although it lies below what the machine has its own of.
	Shared string
}

func (spec Spec) socket() string  { return filepath.Join(spec.Folder, "supervisor.sock") }
func (m *Machine) socket() string { return Spec{Folder: m.Folder}.socket() }

// Log is where a program's output goes.
func (m *Machine) Log(program string) string {
	return filepath.Join(m.Folder, program+".log")
}

// Boot starts a machine and returns when its supervisor answers.
func Boot(spec Spec) (*Machine, error) {
	if err := os.MkdirAll(spec.Folder, 0o755); err != nil {
		return nil, err
	}
	told, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	output, err := os.Create(filepath.Join(spec.Folder, "machine.log"))
	if err != nil {
		return nil, err
	}
	defer output.Close()
	first := exec.Command("/proc/self/exe", InitArgument, string(told))
	first.Args[0] = filepath.Base(os.Args[0])
	first.Stdout, first.Stderr = output, output
	first.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	if err := first.Start(); err != nil {
		return nil, fmt.Errorf("start machine %s: %w", spec.Name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- first.Wait() }()
	m := &Machine{Name: spec.Name, Folder: spec.Folder, Pid: first.Process.Pid}
	if m.Started, err = Identity(m.Pid); err != nil {
		return nil, fmt.Errorf("machine %s ended at once: %w", spec.Name, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, err = m.Programs(); err == nil {
			return m, nil
		}
		select {
		case status := <-ended:
			return m, fmt.Errorf("machine %s ended: %w", spec.Name, status)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return m, fmt.Errorf("machine %s does not answer: %w", spec.Name, err)
		}
	}
}

// Find returns the machines that run with their folders in `parent`. They are found by what their first
// processes were told, so those of an `up` that was interrupted anywhere are among them.
func Find(parent string) ([]*Machine, error) {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var machines []*Machine
	for _, path := range lines {
		// Processes end while they are looked at.
		line, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		arguments := strings.Split(string(line), "\x00")
		var spec Spec
		if len(arguments) < 3 || arguments[1] != InitArgument || json.Unmarshal([]byte(arguments[2]), &spec) != nil {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || filepath.Dir(spec.Folder) != parent {
			continue
		}
		if started, err := Identity(pid); err == nil {
			machines = append(machines, &Machine{Name: spec.Name, Folder: spec.Folder, Pid: pid, Started: started})
		}
	}
	slices.SortFunc(machines, func(a, b *Machine) int { return strings.Compare(a.Name, b.Name) })
	return machines, nil
}

// Halt ends everything that runs in it and returns when it has ended.
func (m *Machine) Halt() error {
	return End(m.Pid, m.Started)
}

// End kills a process, if it is still the one that started then, and waits until it is gone.
func End(pid int, started uint64) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		if now, err := Identity(pid); err != nil || now != started {
			return nil
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("process %d does not end", pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Identity of a process beside its pid: when it started. Fails for one that is not there, or is only not
// reaped yet.
func Identity(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, can contain anything.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if state := fields[0]; state == "Z" || state == "X" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// Start runs a program, and again whenever it ends, until it is stopped.
func (m *Machine) Start(program Program) error {
	return m.call("Supervisor.Start", program, new(struct{}))
}

// Stop ends a program and returns when it has ended. Its description stays, for Resume.
func (m *Machine) Stop(program string) error {
	return m.call("Supervisor.Stop", program, new(struct{}))
}

// Resume starts a stopped program as it was.
func (m *Machine) Resume(program string) error {
	return m.call("Supervisor.Resume", program, new(struct{}))
}

// Programs are those it was asked to run.
func (m *Machine) Programs() ([]Status, error) {
	var programs []Status
	err := m.call("Supervisor.List", struct{}{}, &programs)
	return programs, err
}

func (m *Machine) call(method string, argument, answer any) error {
	client, err := rpc.Dial("unix", m.socket())
	if err != nil {
		return fmt.Errorf("machine %s: %w", m.Name, err)
	}
	defer client.Close()
	if err := client.Call(method, argument, answer); err != nil {
		return fmt.Errorf("machine %s: %w", m.Name, err)
	}
	return nil
}

// Enter is a command that runs in it, with the host's standard streams.
func (m *Machine) Enter(program string, args ...string) *exec.Cmd {
	inside := []string{"--target", strconv.Itoa(m.Pid), "--mount", "--net", "--pid", "--ipc", "--uts", program}
	return exec.Command("nsenter", append(inside, args...)...)
}
