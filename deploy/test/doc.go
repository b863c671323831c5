// Package test checks what deploy holds against what reads it: the Kubernetes API's own Go types, Helm, kustomize, systemd,
// and the binary. It is a module of its own, so that the product does not depend on theirs.
package test
