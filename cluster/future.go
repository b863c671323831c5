package cluster

import (
	"reflect"

	"github.com/hashicorp/raft"
)

// answer waits for a future's answer, or for the end of its instance. What still lies in one of the library's buffered channels
// when the instance shuts down is never answered (entries, barriers, questions for leadership), and Error would wait for ever.
// Error looks at a channel for this, which the library sets for some kinds of futures only.
func answer(f raft.Future, over chan struct{}) error {
	if v := reflect.Indirect(reflect.ValueOf(f)); v.Kind() == reflect.Struct {
		if c := v.FieldByName("ShutdownCh"); c.CanSet() && c.Type() == reflect.TypeOf(over) {
			c.Set(reflect.ValueOf(over))
		}
	}
	return f.Error()
}

// present is the running instance, or nil, and what is closed when it has ended.
func (g *group) present() (r *raft.Raft, over chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running.Load(), g.quit
}
