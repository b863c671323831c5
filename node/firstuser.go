package node

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/warrenmq/warren/auth"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// administrator is the tag of who may do everything.
const administrator = "administrator"

// ensureUser creates the user that --default-user names, when there is none, with all permissions in the vhost "/": guest
// may come from the node's own machine alone, so a cluster of containers needs one to begin with. Nodes that start at once
// may each create it: the password is the same. A user that exists keeps its password.
func (n *Node) ensureUser(ctx context.Context) error {
	name := n.config.DefaultUser
	if name == "" {
		return nil
	}
	var known, permitted bool
	n.cluster.ReadCatalog(func(s *catalog.State) {
		known = s.User(name) != nil
		v := s.VHost(catalog.DefaultVHost)
		if v == nil {
			permitted = true // there is nothing to permit
			return
		}
		for p := range v.Permissions() {
			permitted = permitted || p.User == name
		}
	})
	var commands []*catalog.Command
	if !known {
		password, err := readPassword(n.config.DefaultPasswordFile)
		if err != nil {
			return fmt.Errorf("--default-password-file: %w", err)
		}
		hash, err := auth.Hash(password)
		if err != nil {
			return fmt.Errorf("--default-password-file: %w", err)
		}
		commands = append(commands, catalog.PutUser(&raftv1.PutUser{Name: name, PasswordHash: hash, Tags: []string{administrator}}))
	}
	if !permitted {
		commands = append(commands, catalog.SetPermission(&raftv1.SetPermission{Vhost: catalog.DefaultVHost, User: name, Configure: ".*", Write: ".*", Read: ".*"}))
	}
	for _, c := range commands {
		if _, err := n.cluster.Propose(ctx, c); err != nil {
			return fmt.Errorf("create user %q: %w", name, err)
		}
	}
	return nil
}

// maxPasswordFile bounds what is read, in bytes.
const maxPasswordFile = 4096

// readPassword reads a file of one line.
func readPassword(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPasswordFile))
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", fmt.Errorf("%s: no password in it", path)
	}
	return password, nil
}
