// A SPIFFE client on go-spiffe, against which the tests' own trust domains and Workload API are held. Prints JSON.
//
//	client x509                      X.509-SVIDs and bundles of the Workload API
//	client bundles                   bundles of the Workload API, X.509 and JWT
//	client jwt AUDIENCE [ID]         JWT-SVIDs, each validated by the API and with the bundles that it gave
//	client validate AUDIENCE TOKEN   the same for a token
//	client watch COUNT               so many updates or errors of the X.509 context, one a line
//	client mtls ADDRESS NAME         the peer at a TLS server; NAME is the ID or the trust domain to expect
//	client verify NAME BUNDLE CHAIN  the ID in a PEM chain, by the bundle document of trust domain NAME
//	client fetch NAME URL CA         a bundle endpoint of the https_web profile
//
// The Workload API is where SPIFFE_ENDPOINT_SOCKET says. What fails is told as {"error": …}, with exit code 0.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const patience = 10 * time.Second

type object map[string]any

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer, err := run(ctx, os.Args[1:])
	if err != nil {
		answer = object{"error": err.Error()}
	}
	if answer != nil {
		say(answer)
	}
}

func say(what any) {
	if err := json.NewEncoder(os.Stdout).Encode(what); err != nil {
		panic(err)
	}
}

func run(ctx context.Context, arguments []string) (any, error) {
	if len(arguments) == 0 {
		return nil, errors.New("a command is missing")
	}
	given := append(arguments[1:len(arguments):len(arguments)], "", "", "")
	switch arguments[0] {
	case "x509":
		return fetchX509(ctx)
	case "bundles":
		return fetchBundles(ctx)
	case "jwt":
		return fetchJWT(ctx, given[0], given[1])
	case "validate":
		return validate(ctx, given[0], given[1])
	case "watch":
		return nil, watch(ctx, given[0])
	case "mtls":
		return dial(ctx, given[0], given[1])
	case "verify":
		return verify(given[0], given[1], given[2])
	case "fetch":
		return fetch(ctx, given[0], given[1], given[2])
	}
	return nil, fmt.Errorf("no command %q", arguments[0])
}

func fetchX509(ctx context.Context) (any, error) {
	found, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		return nil, err
	}
	return described(found), nil
}

func described(found *workloadapi.X509Context) object {
	svids := []object{}
	for _, svid := range found.SVIDs {
		leaf := svid.Certificates[0]
		_, _, err := x509svid.Verify(svid.Certificates, found.Bundles)
		svids = append(svids, object{
			"id": svid.ID.String(), "hint": svid.Hint, "chain": len(svid.Certificates), "dns": leaf.DNSNames,
			"serial": leaf.SerialNumber.String(), "holds": err == nil,
		})
	}
	bundles := object{}
	for _, bundle := range found.Bundles.Bundles() {
		bundles[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	return object{"svids": svids, "bundles": bundles}
}

func fetchBundles(ctx context.Context) (any, error) {
	x509Bundles, err := workloadapi.FetchX509Bundles(ctx)
	if err != nil {
		return nil, err
	}
	jwtBundles, err := workloadapi.FetchJWTBundles(ctx)
	if err != nil {
		return nil, err
	}
	authorities, keys := object{}, object{}
	for _, bundle := range x509Bundles.Bundles() {
		authorities[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	for _, bundle := range jwtBundles.Bundles() {
		keys[bundle.TrustDomain().Name()] = len(bundle.JWTAuthorities())
	}
	return object{"x509": authorities, "jwt": keys}, nil
}

func fetchJWT(ctx context.Context, audience, id string) (any, error) {
	params := jwtsvid.Params{Audience: audience}
	if id != "" {
		subject, err := spiffeid.FromString(id)
		if err != nil {
			return nil, err
		}
		params.Subject = subject
	}
	svids, err := workloadapi.FetchJWTSVIDs(ctx, params)
	if err != nil {
		return nil, err
	}
	found := []any{}
	for _, svid := range svids {
		validated, err := validate(ctx, audience, svid.Marshal())
		if err != nil {
			return nil, err
		}
		validated["hint"] = svid.Hint
		found = append(found, validated)
	}
	return object{"svids": found}, nil
}

// validate asks the API, and looks itself: they have to agree.
func validate(ctx context.Context, audience, token string) (object, error) {
	svid, asked := workloadapi.ValidateJWTSVID(ctx, token, audience)
	bundles, err := workloadapi.FetchJWTBundles(ctx)
	if err != nil {
		return nil, err
	}
	own, looked := jwtsvid.ParseAndValidate(token, bundles, []string{audience})
	if asked != nil || looked != nil {
		return nil, fmt.Errorf("by the API: %v; by the bundles: %v", asked, looked)
	}
	if svid.ID != own.ID {
		return nil, fmt.Errorf("by the API %s, by the bundles %s", svid.ID, own.ID)
	}
	return object{"id": svid.ID.String(), "claims": svid.Claims, "token": token}, nil
}

type watcher struct {
	events chan object
}

func (w watcher) OnX509ContextUpdate(update *workloadapi.X509Context) { w.events <- described(update) }
func (w watcher) OnX509ContextWatchError(err error)                   { w.events <- object{"error": err.Error()} }

func watch(ctx context.Context, count string) error {
	left, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, ended := make(chan object), make(chan error, 1)
	go func() { ended <- workloadapi.WatchX509Context(ctx, watcher{events}) }()
	for ; left > 0; left-- {
		select {
		case event := <-events:
			say(event)
		case err := <-ended:
			return err
		}
	}
	return nil
}

// dial shows who the server is, and that it takes us: in TLS 1.3 a server refuses only after the client's handshake.
func dial(ctx context.Context, address, name string) (any, error) {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	authorizer, err := authorize(name)
	if err != nil {
		return nil, err
	}
	config := tlsconfig.MTLSClientConfig(source, source, authorizer)
	config.NextProtos = []string{"h2", "http/1.1"}
	dialer := tls.Dialer{Config: config}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	state := connection.(*tls.Conn).ConnectionState()
	id, err := x509svid.IDFromCert(state.PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	if err := answered(connection, state.NegotiatedProtocol); err != nil {
		return nil, err
	}
	return object{"peer": id.String(), "protocol": state.NegotiatedProtocol}, nil
}

func authorize(name string) (tlsconfig.Authorizer, error) {
	if id, err := spiffeid.FromString(name); err == nil && id.Path() != "" {
		return tlsconfig.AuthorizeID(id), nil
	}
	domain, err := spiffeid.TrustDomainFromString(name)
	return tlsconfig.AuthorizeMemberOf(domain), err
}

// answered sends what begins a conversation and waits for the first byte of an answer.
func answered(connection net.Conn, protocol string) error {
	opening := "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	if protocol == "h2" {
		opening = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" // no settings
	}
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(connection, opening); err != nil {
		return err
	}
	_, err := io.ReadFull(connection, make([]byte, 1))
	return err
}

func verify(name, bundleFile, chainFile string) (any, error) {
	domain, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return nil, err
	}
	bundle, err := spiffebundle.Load(domain, bundleFile)
	if err != nil {
		return nil, err
	}
	rest, err := os.ReadFile(chainFile)
	if err != nil {
		return nil, err
	}
	var chain [][]byte
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	id, _, err := x509svid.ParseAndVerify(chain, bundle)
	if err != nil {
		return nil, err
	}
	return object{"id": id.String()}, nil
}

func fetch(ctx context.Context, name, url, authority string) (any, error) {
	domain, err := spiffeid.TrustDomainFromString(name)
	if err != nil {
		return nil, err
	}
	trusted, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted)
	bundle, err := federation.FetchBundle(ctx, domain, url, federation.WithWebPKIRoots(roots))
	if err != nil {
		return nil, err
	}
	sequence, _ := bundle.SequenceNumber()
	hint, hinted := bundle.RefreshHint()
	return object{
		"x509": len(bundle.X509Authorities()), "jwt": len(bundle.JWTAuthorities()), "sequence": sequence,
		"hint": hint.Seconds(), "hinted": hinted,
	}, nil
}
