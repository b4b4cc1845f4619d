// A load client that costs less than what it measures: sends prepared requests, so many in flight, and tells the rate.
//
//	load grpc  ADDRESS CA METHOD  FILE IN_FLIGHT [CLIENT_CERT CLIENT_KEY]
//	load calls ADDRESS CA METHOD  FILE IN_FLIGHT [CLIENT_CERT CLIENT_KEY]
//	load http  URL     CA CONTENT FILE IN_FLIGHT [CLIENT_CERT CLIENT_KEY]
//
// FILE holds requests, each behind its length as four bytes, big endian. Prints JSON. Connections stand before the clock
// starts: one for gRPC, one for each HTTP request in flight; but for calls, which are gRPC with a connection for each.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
)

type raw struct{ data []byte }

type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return v.(*raw).data, nil }
func (rawCodec) Unmarshal(data []byte, v any) error { v.(*raw).data = append([]byte(nil), data...); return nil }
func (rawCodec) Name() string                       { return "proto" }

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func requests(path string) [][]byte {
	data, err := os.ReadFile(path)
	check(err)
	var found [][]byte
	for len(data) >= 4 {
		size := binary.BigEndian.Uint32(data)
		found = append(found, data[4:4+size])
		data = data[4+size:]
	}
	return found
}

func main() {
	if len(os.Args) < 7 {
		fmt.Fprintln(os.Stderr, "usage: see the source")
		os.Exit(2)
	}
	target, what, bodies := os.Args[2], os.Args[4], requests(os.Args[5])
	inFlight, err := strconv.Atoi(os.Args[6])
	check(err)
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(os.Args[3])
	check(err)
	pool.AppendCertsFromPEM(ca)
	config := &tls.Config{RootCAs: pool}
	if len(os.Args) > 8 {
		pair, err := tls.LoadX509KeyPair(os.Args[7], os.Args[8])
		check(err)
		config.Certificates = []tls.Certificate{pair}
	}
	var connect func() func([]byte) ([]byte, error)
	if os.Args[1] == "calls" {
		connect = func() func([]byte) ([]byte, error) {
			return func(body []byte) ([]byte, error) {
				connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(credentials.NewTLS(config)))
				if err != nil {
					return nil, err
				}
				defer connection.Close()
				reply := &raw{}
				err = connection.Invoke(context.Background(), what, &raw{body}, reply, grpc.ForceCodec(rawCodec{}))
				return reply.data, err
			}
		}
	} else if os.Args[1] == "grpc" {
		connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		check(err)
		connection.Connect()
		patience, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		for state := connection.GetState(); state != connectivity.Ready; state = connection.GetState() {
			if !connection.WaitForStateChange(patience, state) {
				check(fmt.Errorf("%s does not answer: %s", target, state))
			}
		}
		connect = func() func([]byte) ([]byte, error) {
			return func(body []byte) ([]byte, error) {
				reply := &raw{}
				err := connection.Invoke(context.Background(), what, &raw{body}, reply, grpc.ForceCodec(rawCodec{}))
				return reply.data, err
			}
		}
	} else {
		origin, err := url.Parse(target)
		check(err)
		connect = func() func([]byte) ([]byte, error) {
			client := &http.Client{Transport: &http.Transport{
				TLSClientConfig: config, MaxConnsPerHost: 1, ForceAttemptHTTP2: false,
				TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
			}}
			// Whatever it answers, the connection stands then.
			reply, err := client.Get(origin.Scheme + "://" + origin.Host + "/healthz")
			check(err)
			_, err = io.Copy(io.Discard, reply.Body)
			check(err)
			check(reply.Body.Close())
			return func(body []byte) ([]byte, error) {
				reply, err := client.Post(target, what, bytes.NewReader(body))
				if err != nil {
					return nil, err
				}
				defer reply.Body.Close()
				answer, err := io.ReadAll(reply.Body)
				if err == nil && reply.StatusCode != 200 {
					err = fmt.Errorf("%d %s", reply.StatusCode, answer)
				}
				return answer, err
			}
		}
	}
	calls := make([]func([]byte) ([]byte, error), inFlight)
	for number := range calls {
		calls[number] = connect()
	}
	latencies := make([]float64, len(bodies))
	var next atomic.Int64
	var failed atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for _, call := range calls {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				number := int(next.Add(1)) - 1
				if number >= len(bodies) {
					return
				}
				start := time.Now()
				if _, err := call(bodies[number]); err != nil {
					if failed.Add(1) == 1 {
						fmt.Fprintln(os.Stderr, err)
					}
				}
				latencies[number] = time.Since(start).Seconds() * 1000
			}
		}()
	}
	group.Wait()
	seconds := time.Since(began).Seconds()
	sort.Float64s(latencies)
	at := func(share float64) float64 { return latencies[int(share*float64(len(latencies)-1))] }
	check(json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"per_s": float64(len(bodies)) / seconds, "p50_ms": at(0.5), "p99_ms": at(0.99), "failed": float64(failed.Load()),
	}))
}
