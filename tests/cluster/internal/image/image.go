// Package image makes container images out of programs, without a container engine.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Spec of an image. It has one layer, which layout.sh lays out.
type Spec struct {
	// Name with its tag, such as weir.test/echo:dev.
	Name string
	// Programs on the host, put into /usr/local/bin. The first one is the entry point.
	Programs []string
	// Args follow the entry point.
	Args []string
}

// user that images run as unless a pod says otherwise; Pod Security's `restricted` wants a number.
const user = "65532:65532"

//go:embed layout.sh
var layoutScript string

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type config struct {
	Architecture string       `json:"architecture"`
	OS           string       `json:"os"`
	Config       configConfig `json:"config"`
	RootFS       rootFS       `json:"rootfs"`
}

type configConfig struct {
	User       string
	Env        []string
	Entrypoint []string
	Cmd        []string `json:",omitempty"`
	WorkingDir string
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	Manifests     []descriptor `json:"manifests"`
}

// Write makes the image as an OCI layout in a tar archive, as `ctr images import` reads it.
func Write(to io.Writer, spec Spec) error {
	layer, err := layer(spec)
	if err != nil {
		return err
	}
	archive := &layout{tar: tar.NewWriter(to)}
	layerAt := archive.blob("application/vnd.oci.image.layer.v1.tar", layer)
	configAt := archive.json("application/vnd.oci.image.config.v1+json", config{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config: configConfig{
			User:       user,
			Env:        []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			Entrypoint: []string{installed(spec.Programs[0])},
			Cmd:        spec.Args,
			WorkingDir: "/",
		},
		RootFS: rootFS{Type: "layers", DiffIDs: []string{layerAt.Digest}},
	})
	manifestAt := archive.json("application/vnd.oci.image.manifest.v1+json", manifest{
		SchemaVersion: 2,
		MediaType:     "application/vnd.oci.image.manifest.v1+json",
		Config:        configAt,
		Layers:        []descriptor{layerAt},
	})
	manifestAt.Annotations = map[string]string{"io.containerd.image.name": spec.Name}
	archive.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	content, err := json.Marshal(index{SchemaVersion: 2, Manifests: []descriptor{manifestAt}})
	if err != nil {
		return err
	}
	archive.file("index.json", content)
	if archive.err != nil {
		return archive.err
	}
	return archive.tar.Close()
}

// layout writes the files of an OCI layout; the first error stays.
type layout struct {
	tar *tar.Writer
	err error
}

func (l *layout) json(mediaType string, content any) descriptor {
	encoded, err := json.Marshal(content)
	if err != nil && l.err == nil {
		l.err = err
	}
	return l.blob(mediaType, encoded)
}

func (l *layout) blob(mediaType string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	l.file("blobs/sha256/"+digest, content)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(content)}
}

func (l *layout) file(name string, content []byte) {
	if l.err == nil {
		l.err = writeFile(l.tar, name, 0o644, content)
	}
}

func installed(program string) string {
	return "/usr/local/bin/" + filepath.Base(program)
}

// layer is the image's file system. The same programs make the same bytes.
func layer(spec Spec) ([]byte, error) {
	if len(spec.Programs) == 0 {
		return nil, fmt.Errorf("image %s has no program", spec.Name)
	}
	root, err := os.MkdirTemp("", "weir-cluster-image")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	command := exec.Command("sh", append([]string{"-s", root}, spec.Programs...)...)
	command.Stdin = strings.NewReader(layoutScript)
	if output, err := command.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("lay out image %s: %w: %s", spec.Name, err, output)
	}
	buffer := new(bytes.Buffer)
	files := tar.NewWriter(buffer)
	if err := writeTree(files, root); err != nil {
		return nil, err
	}
	return buffer.Bytes(), files.Close()
}

// writeTree adds the files below a folder, in the order of their names, owned by root and without times.
func writeTree(to *tar.Writer, root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := int64(info.Mode().Perm())
		if entry.IsDir() {
			if info.Mode()&fs.ModeSticky != 0 {
				mode |= 0o1000
			}
			return to.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return writeFile(to, name, mode, content)
	})
}

func writeFile(to *tar.Writer, name string, mode int64, content []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}
	if err := to.WriteHeader(header); err != nil {
		return err
	}
	_, err := to.Write(content)
	return err
}
