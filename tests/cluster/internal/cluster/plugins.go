package cluster

import (
	"os"
	"path/filepath"
)

// podAddresses is the plugin that gives pods their addresses. It is built beside this program.
const podAddresses = "pod-addresses"

// addPlugins gives a node the plugins that are ours.
func addPlugins(folder string) error {
	programs, err := companions()
	if err != nil {
		return err
	}
	err = os.Symlink(filepath.Join(programs, podAddresses), filepath.Join(folder, podAddresses))
	if err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}
