// Exchanges a proof of identity for a cluster token, shows what came, and gives it back.
//
//	example SERVER CLUSTER SCOPE TOKEN_FILE
//
// SERVER is the daemon's gRPC door, host:port; EXCHANGED_CA names a file with who vouches for it, public roots do without.
// Stubs are made from the contract:
//
//go:generate protoc -I ../../../proto --go_out=. --go_opt=module=exchanged.dev/examples/go --go_opt=Mexchanged/v1/exchange.proto=exchanged.dev/examples/go/exchangedv1 --go-grpc_out=. --go-grpc_opt=module=exchanged.dev/examples/go --go-grpc_opt=Mexchanged/v1/exchange.proto=exchanged.dev/examples/go/exchangedv1 exchanged/v1/exchange.proto
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "exchanged.dev/examples/go/exchangedv1"
)

const (
	jwt           = "urn:ietf:params:oauth:token-type:jwt"
	timeout       = 20 * time.Second // for one try; the daemon gives an exchange 15
	patience      = 60 * time.Second // for all of them
	shortestPause = time.Second
	longestPause  = 60 * time.Second
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: example SERVER CLUSTER SCOPE TOKEN_FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(server, cluster, scope, tokenFile string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	connection, err := connect(server, os.Getenv("EXCHANGED_CA"))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := pb.NewTokenExchangeClient(connection)

	reply, err := exchange(ctx, client, cluster, scope, tokenFile)
	if err != nil {
		return err
	}
	// The daemon's clock is not ours: count from now, and not from expires_at.
	life := time.Duration(reply.ExpiresIn) * time.Second
	refresh := time.Duration((0.5 + 0.3*rand.Float64()) * float64(life))
	fmt.Printf("granted %s as %s at %s\n", reply.Scope, reply.GrantId, reply.Cluster.Server)
	fmt.Printf("good for %s, to be replaced after %s\n", life, refresh.Round(time.Second))

	// Here the token is used: "Authorization: Bearer " + reply.AccessToken, to reply.Cluster.Server.

	return again(ctx, func(ctx context.Context) error {
		_, err := client.Revoke(ctx, &pb.RevokeRequest{Token: reply.AccessToken})
		if err == nil {
			fmt.Println("given back")
		}
		return err
	})
}

func exchange(
	ctx context.Context, client pb.TokenExchangeClient, cluster, scope, tokenFile string,
) (reply *pb.ExchangeResponse, err error) {
	err = again(ctx, func(ctx context.Context) error {
		// Read anew for each try: the proof may have been replaced, or be good for one use.
		subject, err := os.ReadFile(tokenFile)
		if err != nil {
			return err
		}
		reply, err = client.Exchange(ctx, &pb.ExchangeRequest{
			Audience:         []string{cluster},
			Scope:            scope,
			SubjectToken:     strings.TrimSpace(string(subject)),
			SubjectTokenType: jwt,
		})
		return err
	})
	return reply, err
}

// again tries until it succeeds, the daemon says no, or the context ends. Pauses have full jitter.
func again(ctx context.Context, try func(context.Context) error) error {
	for bound := shortestPause; ; bound = min(2*bound, longestPause) {
		once, cancel := context.WithTimeout(ctx, timeout)
		err := try(once)
		cancel()
		if err == nil {
			return nil
		}
		failure, passes, after := explain(err)
		if !passes {
			return failure
		}
		pause := after + time.Duration(rand.Float64()*float64(bound))
		fmt.Fprintf(os.Stderr, "%s; trying again in %s\n", failure, pause.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return failure
		case <-time.After(pause):
		}
	}
}

// explain says what happened, whether waiting may help, and how long the daemon asks to wait.
func explain(err error) (failure error, passes bool, after time.Duration) {
	said, ok := status.FromError(err)
	if !ok {
		return err, false, 0
	}
	reason, request := "", ""
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason, request = detail.Reason, detail.Metadata["request_id"]
		case *errdetails.RetryInfo:
			after = detail.RetryDelay.AsDuration()
		}
	}
	switch said.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
		passes = true
	default:
		// The policy changed while the grant was made; the new one was not asked.
		passes = reason == "POLICY_CHANGED"
	}
	if reason == "" {
		return fmt.Errorf("no answer: %s", said.Message()), passes, after
	}
	return fmt.Errorf("%s [%s, request %s]", said.Message(), reason, request), passes, after
}

func connect(server, authority string) (*grpc.ClientConn, error) {
	var roots *x509.CertPool // nil: public roots
	if authority != "" {
		trusted, err := os.ReadFile(authority)
		if err != nil {
			return nil, err
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(trusted) {
			return nil, errors.New("EXCHANGED_CA holds no certificate (PEM)")
		}
	}
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = 5 * time.Second // two minutes by default: far too late for a daemon that was away
	return grpc.NewClient(
		server,
		grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(roots, "")),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 5 * time.Second}),
		// A connection that a network forgot is noticed by the call that waits on it.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	)
}
