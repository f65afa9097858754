// A CSI driver on grpc-go with only the Identity service, whose responses are controlled by signals.
//
// Each SIGUSR1 switches to the next response to Probe, SIGUSR2 back to the first.  The types are from the CSI specification's
// Go package.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/golang/protobuf/ptypes/wrappers"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type probeFunc func(context.Context) (*csi.ProbeResponse, error)

func answer(ready *wrappers.BoolValue) probeFunc {
	return func(context.Context) (*csi.ProbeResponse, error) { return &csi.ProbeResponse{Ready: ready}, nil }
}

func fail(code codes.Code, message string) probeFunc {
	return func(context.Context) (*csi.ProbeResponse, error) { return nil, status.Error(code, message) }
}

func hang(ctx context.Context) (*csi.ProbeResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Every response that the specification knows, and two that it does not know.
var ways = []struct {
	name  string
	probe probeFunc
}{
	{"ready left out", answer(nil)},
	{"ready", answer(&wrappers.BoolValue{Value: true})},
	{"not ready", answer(&wrappers.BoolValue{Value: false})},
	{"failed precondition", fail(codes.FailedPrecondition, "the backend is missing")},
	{"unimplemented", fail(codes.Unimplemented, "no such method")},
	{"hang", hang},
}

type identity struct {
	csi.UnimplementedIdentityServer
	way int32
}

func (i *identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: "go.csi.livenessprobe", VendorVersion: "1"}, nil
}

func (i *identity) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return ways[int(atomic.LoadInt32(&i.way))%len(ways)].probe(ctx)
}

func (i *identity) obey(signals <-chan os.Signal) {
	for received := range signals {
		next := int32(0)
		if received == syscall.SIGUSR1 {
			next = (atomic.LoadInt32(&i.way) + 1) % int32(len(ways))
		}
		atomic.StoreInt32(&i.way, next)
		log.Printf("now: %s", ways[next].name)
	}
}

func main() {
	socket := flag.String("socket", "/csi/csi.sock", "unix socket to listen on")
	delay := flag.Duration("delay", 0, "how long the start takes")
	flag.Parse()

	service := &identity{}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go service.obey(signals)

	time.Sleep(*delay)
	os.Remove(*socket) // left over from a crash
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, service)
	log.Printf("serving on %s", *socket)
	log.Fatal(server.Serve(listener))
}
