// Command warren is the broker and the tools for it, in one binary. It reads the command line and leaves the rest to the
// packages below.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := rootCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "warren:", oneLine(err))
		os.Exit(1)
	}
}

// oneLine is what an error says, in one line: scripts and logs take lines.
func oneLine(err error) string {
	var text strings.Builder
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimSpace(line)
		switch before := text.String(); {
		case line == "":
			continue
		case before == "":
		case strings.HasSuffix(before, "?") || strings.HasSuffix(before, ":"):
			text.WriteString(" ")
		default:
			text.WriteString("; ")
		}
		text.WriteString(line)
	}
	return text.String()
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
