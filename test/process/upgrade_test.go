package process

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nextBinary makes the program of the next version: it knows a machine version more (raftfsm/queue, tag warren_next).
func nextBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "warren-next")
	args := []string{"build", "-tags", "warren_next", "-ldflags", "-X main.version=next", "-o", path}
	if RaceDetector {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "github.com/warrenmq/warren/cmd/warren")...).CombinedOutput(); err != nil {
		t.Fatalf("build the next version: %v\n%s", err, out)
	}
	return path
}

// TestRollingUpgrade starts each of three nodes with a program of the next version, one after the other, under load. The new
// machine version comes into force with the last of them, for the catalog and for every shard; a node that then starts with the
// old program is refused and says why. Nothing is lost, and nothing comes twice.
func TestRollingUpgrade(t *testing.T) {
	const shards = 3
	next := nextBinary(t)
	c := Start(t, 3, "--shards", fmt.Sprint(shards))
	travellers := travel(t, c.Nodes)
	flow := func(what string) { t.Helper(); flowing(t, travellers, what) }
	flow("before")
	old := c.Nodes[0].binary
	for i, n := range c.Nodes {
		n.Stop()
		n.binary = next
		n.Restart()
		flow(n.Name + " runs the next version")
		if i == len(c.Nodes)-1 {
			break
		}
		o, err := n.view()
		if err != nil {
			t.Fatal(err)
		}
		if o.MachineVersion != 1 || !strings.Contains(o.HeldBack, "machine version 2 comes into force when all nodes run a program that knows it") ||
			!strings.Contains(o.HeldBack, c.Nodes[2].Name) {
			t.Errorf("with %d nodes of the next version: %+v", i+1, o)
		}
	}
	for _, n := range c.Nodes {
		Await(t, n.Name+" is at machine version 2", func() bool {
			o, err := n.view()
			return err == nil && o.MachineVersion == 2 && o.HeldBack == ""
		})
		for shard := range shards {
			raised := fmt.Sprintf(`msg="machine version" node=%s shard=%d version=2`, n.Name, shard)
			Await(t, fmt.Sprintf("%s has raised shard %d", n.Name, shard), func() bool { return strings.Contains(n.Log(), raised) })
		}
	}
	flow("at the next machine version")

	back := c.Nodes[1]
	back.Stop()
	back.binary = old
	back.StartAgain()
	back.AwaitEnd("the old program ends")
	if log := back.Log(); !strings.Contains(log, "the cluster is at machine version 2, and this program knows 1 at most: start the newer program again") {
		t.Errorf("the old program does not say why it ends:\n%s", log[max(0, len(log)-2000):])
	}
	flow("a node has tried the old program")
	back.binary = next
	back.Restart()
	flow("all are back")
	arrived(t, travellers)
}
