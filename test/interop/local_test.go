package interop

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/internal/freeport"
	"github.com/warrenmq/warren/test/process"
)

// TestLocalCluster runs deploy/local/cluster, which is what `make cluster` calls, with its settings from the environment:
// three nodes serve, and stop ends exactly them.
func TestLocalCluster(t *testing.T) {
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	first, err := freeport.Row(15)
	if err != nil {
		t.Fatal(err)
	}
	environment := append(process.CleanEnvironment(), "WARREN_BIN="+binary, "WARREN_CLUSTER_DIR="+t.TempDir(),
		fmt.Sprintf("WARREN_CLUSTER_AMQP_PORT=%d", first), fmt.Sprintf("WARREN_CLUSTER_HTTP_PORT=%d", first+3),
		fmt.Sprintf("WARREN_CLUSTER_GRPC_PORT=%d", first+6), fmt.Sprintf("WARREN_CLUSTER_PEER_PORT=%d", first+9),
		fmt.Sprintf("WARREN_CLUSTER_GOSSIP_PORT=%d", first+12))
	cluster := func(action string) string {
		command := exec.Command("../../deploy/local/cluster", action)
		command.Env = environment
		out, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", action, err, out)
		}
		return string(out)
	}
	defer cluster("stop")
	if out := cluster("start"); strings.Count(out, "amqp://") != 3 {
		t.Fatalf("start says: %s", out)
	}
	for i := range 3 {
		conn, err := amqp.Dial(fmt.Sprintf("amqp://127.0.0.1:%d/", first+i))
		if err != nil {
			t.Fatalf("node%d: %v", i+1, err)
		}
		defer conn.Close()
	}
	if out := cluster("status"); strings.Count(out, "runs, pid") != 3 {
		t.Fatalf("status says: %s", out)
	}
	cluster("stop")
	if out := cluster("status"); strings.Count(out, "does not run") != 3 || strings.Contains(out, "No such file") {
		t.Fatalf("status after stop says: %s", out)
	}
}
