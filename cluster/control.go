package cluster

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// controlServer answers the other nodes.
type controlServer struct {
	nodev1.UnimplementedControlServer
	c *Cluster
}

// maxCommand bounds a command from another node, in bytes; the catalog's own bound is lower.
const maxCommand = 8 << 20

// Propose implements the Control service.
func (s controlServer) Propose(ctx context.Context, q *nodev1.ProposeRequest) (*nodev1.ProposeResponse, error) {
	if len(q.Command) > maxCommand {
		return nil, status.Error(codes.InvalidArgument, "the command is too large")
	}
	if !s.c.hasCatalog() {
		return &nodev1.ProposeResponse{NotLeader: true}, nil
	}
	if _, ok := s.c.catalog.leading(); !ok {
		return &nodev1.ProposeResponse{NotLeader: true}, nil
	}
	index, err := s.c.commitHere(ctx, q.Command)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &nodev1.ProposeResponse{Index: index}, nil
}

// Follow implements the Control service.
func (s controlServer) Follow(stream grpc.BidiStreamingServer[nodev1.FollowRequest, nodev1.FollowResponse]) error {
	if !s.c.hasCatalog() {
		return errNotCatalogLeader
	}
	return s.c.leases.serve(stream)
}

// Bootstrap implements the Control service.
func (s controlServer) Bootstrap(_ context.Context, q *nodev1.BootstrapRequest) (*nodev1.BootstrapResponse, error) {
	if err := s.c.bootstrap(founding{ClusterID: q.ClusterId, Servers: foundingNodes(q.Servers)}); err != nil {
		return &nodev1.BootstrapResponse{Refusal: err.Error()}, nil
	}
	return &nodev1.BootstrapResponse{}, nil
}
