// Command goproxy is a reverse proxy of Go's standard library with a circuit breaker behind a mutex and a
// concurrency limit: what a Go team would write before it reached for a service mesh.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"
)

var errOpen = errors.New("circuit open")

// breaker opens after a run of failures and lets one trial through when its time has come.
type breaker struct {
	mu        sync.Mutex
	threshold int
	openFor   time.Duration
	failures  int
	openUntil time.Time // zero while closed
	trial     bool      // a trial is in flight
}

// admit reports whether a request may go to the upstream.
func (b *breaker) admit() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.openUntil.IsZero() {
		return true
	}
	if b.trial || time.Now().Before(b.openUntil) {
		return false
	}
	b.trial = true
	return true
}

// release ends an admitted request that says nothing about the upstream.
func (b *breaker) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trial = false
}

// record takes the outcome of an admitted request.
func (b *breaker) record(ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trial = false
	if ok {
		b.failures = 0
		b.openUntil = time.Time{}
		return
	}
	b.failures++
	if b.failures >= b.threshold {
		b.openUntil = time.Now().Add(b.openFor)
	}
}

// guarded is a transport whose round trips the breaker admits and judges.
type guarded struct {
	next    http.RoundTripper
	breaker *breaker
}

func (g *guarded) RoundTrip(request *http.Request) (*http.Response, error) {
	if !g.breaker.admit() {
		return nil, errOpen
	}
	response, err := g.next.RoundTrip(request)
	if err != nil && request.Context().Err() != nil {
		// The client went. A load generator that ends takes all its requests along at once, which would
		// otherwise open the breaker.
		g.breaker.release()
		return nil, err
	}
	g.breaker.record(err == nil && response.StatusCode < 500)
	return response, err
}

// buffers lends the copying buffers to ReverseProxy, which otherwise allocates 32 KiB per response.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte       { return *b.pool.Get().(*[]byte) }
func (b *buffers) Put(buffer []byte) { b.pool.Put(&buffer) }

func newBuffers() *buffers {
	return &buffers{sync.Pool{New: func() any {
		buffer := make([]byte, 32*1024)
		return &buffer
	}}}
}

func main() {
	listen := flag.String("listen", "", "address to listen on")
	upstream := flag.String("upstream", "", "URL of the upstream")
	caFile := flag.String("ca-file", "", "PEM file of the CA that an https upstream is verified against")
	serverName := flag.String("server-name", "", "name that its certificate must be for")
	concurrency := flag.Int("concurrency", 1024, "requests in flight at once")
	failures := flag.Int("consecutive-failures", 5, "failures in a row that open the breaker")
	openFor := flag.Duration("open-for", 30*time.Second, "how long the breaker stays open")
	flag.Parse()

	target, err := url.Parse(*upstream)
	if err != nil {
		log.Fatal(err)
	}
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: time.Second}).DialContext,
		// The default of 2 would close and reopen connections all the time.
		MaxIdleConnsPerHost:   *concurrency,
		IdleConnTimeout:       10 * time.Minute,
		ResponseHeaderTimeout: 5 * time.Second,
		// The answer's bytes are the client's business.
		DisableCompression: true,
	}
	if *caFile != "" {
		pem, err := os.ReadFile(*caFile)
		if err != nil {
			log.Fatal(err)
		}
		transport.TLSClientConfig = &tls.Config{
			RootCAs:    x509.NewCertPool(),
			ServerName: *serverName,
			// The upstream's only group: a key share of another, post-quantum one would be made in vain.
			CurvePreferences: []tls.CurveID{tls.X25519},
		}
		transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &guarded{
			next:    transport,
			breaker: &breaker{threshold: *failures, openFor: *openFor},
		},
		BufferPool: newBuffers(),
		ErrorLog:   log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, errOpen) {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	slots := make(chan struct{}, *concurrency)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		// Held until the body has gone out; ReverseProxy may leave by a panic.
		defer func() { <-slots }()
		proxy.ServeHTTP(w, r)
	})
	server := &http.Server{
		Addr:              *listen,
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       10 * time.Minute,
	}
	log.Fatal(server.ListenAndServe())
}
