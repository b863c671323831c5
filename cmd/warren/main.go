// Command warren is the broker and the tools for it, in one binary. It reads the command line and leaves the rest to the
// packages below.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := rootCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "warren:", err)
		os.Exit(1)
	}
}

// rootCommand is the whole command line.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "warren",
		Short:         "Warren is a clustered AMQP 0-9-1 message broker.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serverCommand(), healthCommand(), tlsCommand(), benchCommand(), versionCommand(), storageCommand(), recoverCommand(),
		statusCommand(), membersCommand(), shardsCommand(), leaveCommand(), removeCommand(), drainCommand(), rebalanceCommand())
	root.AddCommand(backupCommand(), restoreCommand())
	root.AddCommand(messageCommands()...)
	return root
}
