package machine

import (
	"encoding/json"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// InitArgument makes this executable the first process of a machine; its Spec follows.
const InitArgument = "machine"

// tunables are what a kubelet sets and what it finds set already. They belong to the kernel, so a test
// would change the host; the machine sees these instead.
var tunables = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// Init is the life of a machine's first process. It returns only an error, or when it is told to end.
func Init(told string) error {
	var spec Spec
	if err := json.Unmarshal([]byte(told), &spec); err != nil {
		return fmt.Errorf("machine: %w", err)
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := mounts(spec); err != nil {
		return err
	}
	if err := forwarding(); err != nil {
		return err
	}
	supervisor := newSupervisor(spec.Folder)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	listener, err := net.Listen("unix", spec.socket())
	if err != nil {
		return err
	}
	server := rpc.NewServer()
	if err := server.RegisterName("Supervisor", supervisor); err != nil {
		return err
	}
	go server.Accept(listener)
	for range signals {
		supervisor.reap()
	}
	return nil
}

// mounts gives the machine a /proc of its processes, and folders of its own where programs write to
// fixed places: sockets, locks and namespaces below /run, logs, state below /var/lib.
func mounts(spec Spec) error {
	// Nothing of it is seen by the host; kubelets want mounts to propagate among themselves.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("shared mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	library := filepath.Join(spec.Folder, "var-lib")
	inside, err := filepath.Rel("/var/lib", spec.Shared)
	if err != nil {
		return err
	}
	if err := bind(spec.Shared, filepath.Join(library, inside)); err != nil {
		return err
	}
	if err := bind(library, "/var/lib"); err != nil {
		return err
	}
	if err := bind(filepath.Join(spec.Folder, "var-log"), "/var/log"); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("/run: %w", err)
	}
	return bindTunables(filepath.Join(spec.Folder, "tunables"))
}

func bind(from, to string) error {
	for _, folder := range []string{from, to} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	return nil
}

func bindTunables(folder string) error {
	for name, value := range tunables {
		stand := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(stand), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(stand, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(stand, filepath.Join("/proc/sys", name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind /proc/sys/%s: %w", name, err)
		}
	}
	return nil
}

// forwarding makes a machine a router. Namespaces start with the host's settings, so what would drop
// asymmetric paths is switched off explicitly.
func forwarding() error {
	for name, value := range map[string]string{
		"ipv4/ip_forward":                  "1",
		"ipv4/conf/all/rp_filter":          "0",
		"ipv4/conf/default/rp_filter":      "0",
		"ipv4/conf/all/send_redirects":     "0",
		"ipv4/conf/default/send_redirects": "0",
		"ipv6/conf/all/forwarding":         "1",
		"ipv6/conf/default/forwarding":     "1",
		// Nobody else has a machine's addresses: they can be used at once.
		"ipv6/conf/default/accept_dad": "0",
	} {
		if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}
