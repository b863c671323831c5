package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// TestDefaultUser starts a node with a first user, who may declare and publish, keeps the password over a restart with
// another in the file, and is there on a plain start too.
func TestDefaultUser(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	node := Start(t, 1, "--default-user", "admin", "--default-password-file", file).Nodes[0]
	login := func(password string) error {
		c, err := amqp.Dial("amqp://admin:" + password + "@" + node.AMQPAddress() + "/")
		if err != nil {
			return err
		}
		defer c.Close()
		ch, err := c.Channel()
		if err != nil {
			return err
		}
		_, err = ch.QueueDeclare("q", true, false, false, false, nil)
		return err
	}
	if err := login("first"); err != nil {
		t.Fatal(err)
	}
	write("second")
	node.Stop()
	node.Restart()
	if err := login("first"); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	if err := login("second"); err == nil {
		t.Fatal("a restart changed the password")
	}
	if strings.Contains(node.Log(), "PLAIN TEXT") {
		t.Error("a node on loopback warned of plain text")
	}
}
