package image

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// stripped is a program without its debugging information, which is most of a debug build.
func stripped(program string) ([]byte, error) {
	strip, err := exec.LookPath("strip")
	if err != nil {
		return os.ReadFile(program)
	}
	folder, err := os.MkdirTemp("", "weir-cluster-image")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	small := filepath.Join(folder, "program")
	if output, err := exec.Command(strip, "--strip-debug", "-o", small, program).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("strip %s: %w: %s", program, err, output)
	}
	return os.ReadFile(small)
}

// linkedAgainst are the loader and the shared libraries of a program, as absolute paths. A library's
// path is where the host's loader finds it, so the image's finds it there too.
func linkedAgainst(program string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	defer file.Close()
	static := true
	for _, segment := range file.Progs {
		static = static && segment.Type != elf.PT_INTERP
	}
	if static {
		return nil, nil
	}
	output, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w: %s", program, err, output)
	}
	var paths []string
	for line := range strings.Lines(string(output)) {
		// `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`,
		// and `linux-vdso.so.1 (0x...)`, which the kernel brings.
		if strings.Contains(line, "not found") {
			return nil, fmt.Errorf("%s: %s", program, strings.TrimSpace(line))
		}
		for _, word := range strings.Fields(line) {
			if filepath.IsAbs(word) {
				paths = append(paths, word)
			}
		}
	}
	return paths, nil
}
