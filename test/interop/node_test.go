package interop

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/warrenmq/warren/test/process"
)

// TestAmqplib drives one node and a cluster with the Node.js client.
func TestAmqplib(t *testing.T) {
	needAmqplib(t)
	count, large := 2000, 12
	if os.Getenv("WARREN_LARGE") != "" {
		count, large = 100_000, 400
	}
	for _, nodes := range []int{1, 3} {
		c := process.Start(t, nodes)
		for _, scenario := range []string{"basics", "missing", "mixed"} {
			t.Run(fmt.Sprintf("%d nodes %s", nodes, scenario), func(t *testing.T) {
				command := exec.Command("node", "node/client.js", scenario)
				command.Env = append(os.Environ(), "BROKER_URL="+c.Nodes[nodes-1].URL(), fmt.Sprintf("COUNT=%d", count), fmt.Sprintf("LARGE=%d", large))
				if out, err := command.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			})
		}
	}
}
