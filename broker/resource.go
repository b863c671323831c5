package broker

import "github.com/warrenmq/warren/auth"

// resource is a queue or exchange as error texts name it.
type resource struct {
	kind, name, vhost string
}

func queueIn(name, vhost string) resource    { return resource{"queue", name, vhost} }
func exchangeIn(name, vhost string) resource { return resource{"exchange", name, vhost} }

// String renders the resource, such as "queue 'orders' in vhost '/'".
func (r resource) String() string { return r.kind + " '" + r.name + "' in vhost '" + r.vhost + "'" }

// permitted is the resource as permissions know it.
func (r resource) permitted() resource {
	if r.kind == "exchange" && r.name == "" {
		r.name = auth.DefaultExchange
	}
	return r
}

func noQueue(name, vhost string) *Error {
	return errorf(NotFound, "no %s", queueIn(name, vhost))
}

func noExchange(name, vhost string) *Error {
	return errorf(NotFound, "no %s", exchangeIn(name, vhost))
}
