package machine

import (
	"cmp"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restartAfter keeps a program that cannot start from taking a processor.
const restartAfter = time.Second

// Status of one program.
type Status struct {
	Name string
	// Pid inside the machine; 0 while it does not run.
	Pid int
	// Wanted is false for what was stopped on purpose.
	Wanted bool
	// Exits that nobody asked for, and how the last one was.
	Exits    int
	LastExit string
}

// Supervisor runs programs again when they end. Its exported methods are what a machine can be asked.
type Supervisor struct {
	folder   string
	mutex    sync.Mutex
	ended    *sync.Cond
	programs map[string]*supervised
}

type supervised struct {
	program Program
	status  Status
}

func newSupervisor(folder string) *Supervisor {
	s := &Supervisor{folder: folder, programs: map[string]*supervised{}}
	s.ended = sync.NewCond(&s.mutex)
	return s
}

// Start adds a program and runs it.
func (s *Supervisor) Start(program Program, _ *struct{}) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.programs[program.Name] != nil {
		return fmt.Errorf("%s is there already", program.Name)
	}
	known := &supervised{program: program, status: Status{Name: program.Name, Wanted: true}}
	if err := s.run(known); err != nil {
		return err
	}
	s.programs[program.Name] = known
	return nil
}

// Stop ends a program.
func (s *Supervisor) Stop(name string, _ *struct{}) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	known := s.programs[name]
	if known == nil {
		return fmt.Errorf("no program %s", name)
	}
	known.status.Wanted = false
	if pid := known.status.Pid; pid != 0 {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return fmt.Errorf("kill %s: %w", name, err)
		}
	}
	for known.status.Pid != 0 {
		s.ended.Wait()
	}
	return nil
}

// Resume runs a stopped program again.
func (s *Supervisor) Resume(name string, _ *struct{}) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	known := s.programs[name]
	if known == nil {
		return fmt.Errorf("no program %s", name)
	}
	known.status.Wanted = true
	if known.status.Pid != 0 {
		return nil
	}
	return s.run(known)
}

// List tells of all programs.
func (s *Supervisor) List(_ struct{}, all *[]Status) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, known := range s.programs {
		*all = append(*all, known.status)
	}
	slices.SortFunc(*all, func(a, b Status) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

// run starts a program; the lock is held, so that reap sees its pid.
func (s *Supervisor) run(known *supervised) error {
	program := known.program
	output, err := os.OpenFile(filepath.Join(s.folder, program.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer output.Close()
	path := program.Path
	args := append([]string{program.Name}, program.Args...)
	if path == "" {
		path = "/proc/self/exe"
		args = append([]string{filepath.Base(os.Args[0]), program.Name}, program.Args...)
	}
	process, err := os.StartProcess(path, args, &os.ProcAttr{
		Dir: "/",
		// The state of a program is in its folder, not where the user's is.
		Env:   append(os.Environ(), "HOME=/root"),
		Files: []*os.File{nil, output, output},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", program.Name, err)
	}
	known.status.Pid = process.Pid
	// Not waited for here: the first process also gets the orphans of others, and reap takes all.
	return process.Release()
}

// reap takes every process that has ended, ours or orphaned.
func (s *Supervisor) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err != nil || pid <= 0 {
			return
		}
		s.mutex.Lock()
		for _, known := range s.programs {
			if known.status.Pid == pid {
				s.exited(known, status)
			}
		}
		s.mutex.Unlock()
	}
}

func (s *Supervisor) exited(known *supervised, status unix.WaitStatus) {
	known.status.Pid = 0
	s.ended.Broadcast()
	if !known.status.Wanted {
		return
	}
	known.status.Exits++
	known.status.LastExit = fmt.Sprintf("exit code %d", status.ExitStatus())
	if status.Signaled() {
		known.status.LastExit = status.Signal().String()
	}
	log.Printf("%s ended: %s; starting it again", known.status.Name, known.status.LastExit)
	time.AfterFunc(restartAfter, func() {
		s.mutex.Lock()
		defer s.mutex.Unlock()
		if known.status.Wanted && known.status.Pid == 0 {
			if err := s.run(known); err != nil {
				log.Printf("%v", err)
			}
		}
	})
}
