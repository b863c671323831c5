package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/storage"
	"github.com/warrenmq/warren/storage/vfs"
)

func storageCommand() *cobra.Command {
	return group("storage", "Look into the files of a node that is not running.", storageDumpCommand())
}

func storageDumpCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "dump DIR",
		Short: "Print what a data directory holds, and check every checksum.",
		Long: "Print what a data directory holds: log files, checkpoints and segments. Every checksum is checked. The exit\n" +
			"status is not 0 when something is damaged. Nothing is changed; the node that owns the directory must not run.",
		Example: "  warren storage dump /var/lib/warren",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			fs := vfs.OS()
			return storage.Dump(fs, storeDir(fs, args[0]), c.OutOrStdout(), asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line")
	return c
}

// storeDir is where the store is: a node keeps it in a directory of its data directory, and either may be named. In the
// store's own directory that name is a file's.
func storeDir(fs vfs.FS, dir string) string {
	inside := filepath.Join(dir, "store")
	if info, err := fs.Stat(inside); err == nil && info.IsDir {
		return inside
	}
	return dir
}
