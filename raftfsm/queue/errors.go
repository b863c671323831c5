package queue

import "errors"

// What Apply, Check and Restore fail with. Each means that this node cannot follow the others any further and must stop.
var (
	ErrVersion        = errors.New("version not known to this node")
	ErrUnknownCommand = errors.New("command not known to this node")
	ErrMalformed      = errors.New("malformed entry")
	ErrOrder          = errors.New("entry out of order")
	ErrDiverged       = errors.New("replica differs from its leader")
	ErrSnapshot       = errors.New("malformed snapshot")
)
