// Package image makes container images out of programs, without a container engine.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Spec of an image. It has one layer: the programs with all they are linked against, and the files below
// /etc that a C library and TLS clients read.
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

const passwd = "root:x:0:0:root:/:/sbin/nologin\n" +
	"nobody:x:65534:65534:nobody:/:/sbin/nologin\n" +
	"nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"

const group = "root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n"

// trusted are the host's certificate authorities; the first one found is put at the first place.
var trusted = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
}

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
	buffer := new(bytes.Buffer)
	files := tar.NewWriter(buffer)
	libraries := map[string]bool{}
	for _, program := range spec.Programs {
		if err := copyProgram(files, program, libraries); err != nil {
			return nil, err
		}
	}
	// Where programs keep temporary files, for those whose root is not read-only.
	temporary := &tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}
	if err := files.WriteHeader(temporary); err != nil {
		return nil, err
	}
	etc := map[string]string{
		"etc/group":         group,
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
		"etc/passwd":        passwd,
	}
	for _, name := range []string{"etc/group", "etc/nsswitch.conf", "etc/passwd"} {
		if err := writeFile(files, name, 0o644, []byte(etc[name])); err != nil {
			return nil, err
		}
	}
	if err := copyTrusted(files); err != nil {
		return nil, err
	}
	return buffer.Bytes(), files.Close()
}

func copyProgram(files *tar.Writer, program string, libraries map[string]bool) error {
	content, err := stripped(program)
	if err != nil {
		return err
	}
	if err := writeFile(files, strings.TrimPrefix(installed(program), "/"), 0o755, content); err != nil {
		return err
	}
	needed, err := linkedAgainst(program)
	if err != nil {
		return err
	}
	for _, library := range needed {
		if libraries[library] {
			continue
		}
		libraries[library] = true
		content, err := os.ReadFile(library)
		if err != nil {
			return err
		}
		if err := writeFile(files, strings.TrimPrefix(library, "/"), 0o755, content); err != nil {
			return err
		}
	}
	return nil
}

func copyTrusted(files *tar.Writer) error {
	for _, path := range trusted {
		if content, err := os.ReadFile(path); err == nil {
			return writeFile(files, strings.TrimPrefix(trusted[0], "/"), 0o644, content)
		}
	}
	return nil
}

func writeFile(to *tar.Writer, name string, mode int64, content []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}
	if err := to.WriteHeader(header); err != nil {
		return err
	}
	_, err := to.Write(content)
	return err
}
