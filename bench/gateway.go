package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/rueidis"
)

const (
	floor = "floor" // a child that serves a value from its memory, and one that it GETs
	// gatewayReady bounds the start of the daemon.
	gatewayReady = time.Minute
)

// gateway measures hits over HTTP with wrk: of the daemon itself, as it is installed, against a handler of net/http that writes the
// same JSON from memory, and one that has it from a plain GET.
func gateway(ctx context.Context, b *bench) error {
	if _, err := exec.LookPath("wrk"); err != nil {
		return fmt.Errorf("%w: scripts/servers.sh tests installs it", err)
	}
	s, err := newSubject(ctx, b, "gateway", probeRows)
	if err != nil {
		return err
	}
	defer s.close()
	dir, err := os.MkdirTemp("", "freshet-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	address, stop, err := s.serve(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	url := "http://" + address + "/v1/entries/" + table + "/1"
	value, err := hitOverHTTP(ctx, url)
	if err != nil {
		return err
	}
	if err := s.client.Do(ctx, s.client.B().Set().Key(s.namespace+":plain").Value(string(value)).Build()).Error(); err != nil {
		return err
	}
	handlers, err := start(ctx, job{Kind: floor, Redis: b.servers.redis.Addr(), Prefix: s.namespace + ":plain", Value: string(value)})
	if err != nil {
		return err
	}
	bare, err := handlers.line(ctx)
	if err == nil {
		err = b.wrkAll(ctx, []*httpSide{
			{name: "gateway", url: url}, {name: "net/http, from memory", url: bare + "/memory"}, {name: "net/http, a GET", url: bare + "/get"},
		})
	}
	return errors.Join(err, handlers.stop())
}

// httpSide is one who answers, and the blocks that wrk measured of it.
type httpSide struct {
	name, url string
	rates     []float64 // requests a second
	p99       []float64 // milliseconds
}

func (b *bench) wrkAll(ctx context.Context, sides []*httpSide) error {
	for _, connections := range []int{1, 64} {
		for _, side := range sides {
			side.rates, side.p99 = nil, nil
		}
		const warmup = 1
		for block := range warmup + b.sizes.rounds {
			turn := slices.Clone(sides)
			if block%2 != 0 {
				slices.Reverse(turn)
			}
			for _, side := range turn {
				rate, p99, err := wrk(ctx, side.url, connections, b.sizes.httpTime)
				if err != nil {
					return fmt.Errorf("%s: %w", side.name, err)
				}
				if block >= warmup {
					side.rates, side.p99 = append(side.rates, rate), append(side.p99, p99)
					what := "cached/connections=" + strconv.Itoa(connections)
					b.sample(what, side.name, rate, "req/s")
					b.sample(what, side.name, p99*1e6, "p99-ns/op")
				}
			}
		}
		for _, side := range sides {
			b.printf("  %2d connections, %-22s %7.0f requests a second, p99 %.2f ms\n", connections, side.name, median(side.rates), median(side.p99))
		}
		us, memory, get := sides[0], sides[1], sides[2]
		name := "gateway/" + strconv.Itoa(connections)
		b.report(name+"/memory", median(us.rates)/median(memory.rates), "of the rate of a bare handler that writes the same from memory")
		b.report(name+"/get", median(us.rates)/median(get.rates), "of the rate of a bare handler that does a plain GET")
		b.report(name+"/p99", median(us.p99)/median(get.p99), "times the p99 of a bare handler that does a plain GET")
	}
	return nil
}

// serve builds and runs the daemon, and returns where it listens.
func (s *subject) serve(ctx context.Context, dir string) (address string, stop func(), err error) {
	program := filepath.Join(dir, "freshet")
	if out, err := exec.CommandContext(ctx, "go", "build", "-C", "..", "-o", program, "./cmd/freshet").CombinedOutput(); err != nil { //nolint:gosec // a path of the benchmark's own
		return "", nil, fmt.Errorf("build freshet: %w: %s", err, out)
	}
	if address, err = freeAddress(ctx); err != nil {
		return "", nil, err
	}
	file, err := s.configuration(dir)
	if err != nil {
		return "", nil, err
	}
	text, err := os.ReadFile(file) //nolint:gosec // likewise
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(file, append([]byte("listen: "+address+"\n"), text...), 0o600); err != nil { //nolint:gosec // likewise
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, program, "serve", "--config", file, "--log-level", "warn") //nolint:gosec // likewise
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, 20*time.Second
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	err = until(ctx, gatewayReady, "the daemon", func() (bool, error) {
		status, _, err := fetch(ctx, "http://"+address+"/readyz")
		return err == nil && status == http.StatusOK, nil
	})
	if err != nil {
		stop()
		return "", nil, err
	}
	return address, stop, nil
}

// freeAddress is one of the loopback that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

func fetch(ctx context.Context, url string) (status int, header http.Header, err error) {
	status, header, _, err = fetchAll(ctx, url)
	return status, header, err
}

func fetchAll(ctx context.Context, url string) (status int, header http.Header, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody) //nolint:gosec // an address of the benchmark's own
	if err != nil {
		return 0, nil, nil, err
	}
	response, err := (&http.Client{}).Do(request) //nolint:gosec // likewise
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, response.Header, body, err
}

// hitOverHTTP has a value cached, and returns it.
func hitOverHTTP(ctx context.Context, url string) (value []byte, err error) {
	err = until(ctx, gatewayReady, "a hit", func() (bool, error) {
		status, header, body, err := fetchAll(ctx, url)
		value = body
		return status == http.StatusOK && header.Get("Freshet-Status") == "hit", err
	})
	return value, err
}

var (
	wrkRate   = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkP99    = regexp.MustCompile(`(?m)^\s+99%\s+([\d.]+)(us|ms|s)`)
	wrkFailed = regexp.MustCompile(`Non-2xx or 3xx responses: \d+|Socket errors: .*`)
)

// wrk runs wrk for a block, with one thread.
func wrk(ctx context.Context, url string, connections int, lasts time.Duration) (rate, p99 float64, err error) {
	out, err := exec.CommandContext(ctx, "wrk", "--latency", "-t1", "-c"+strconv.Itoa(connections), //nolint:gosec // an address of the benchmark's own
		"-d"+strconv.Itoa(int(lasts.Seconds()))+"s", url).CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	return readWrk(out)
}

// readWrk reads what wrk prints: the rate, and the 99th percentile in milliseconds.
func readWrk(out []byte) (rate, p99 float64, err error) {
	if failed := wrkFailed.Find(out); failed != nil {
		return 0, 0, fmt.Errorf("wrk: %s", failed)
	}
	r, p := wrkRate.FindSubmatch(out), wrkP99.FindSubmatch(out)
	if r == nil || p == nil {
		return 0, 0, fmt.Errorf("wrk says neither a rate nor a percentile: %s", out)
	}
	if rate, err = strconv.ParseFloat(string(r[1]), 64); err != nil {
		return 0, 0, err
	}
	if p99, err = strconv.ParseFloat(string(p[1]), 64); err != nil {
		return 0, 0, err
	}
	switch string(p[2]) {
	case "us":
		p99 /= 1000
	case "s":
		p99 *= 1000
	}
	return rate, p99, nil
}

// runFloor serves the value that it was given, and the one that it GETs, with the headers that the gateway sends.
func runFloor(ctx context.Context, j job) error {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{j.Redis}, DisableCache: true, ForceSingleClient: true, PipelineMultiplex: -1})
	if err != nil {
		return err
	}
	defer client.Close()
	answer := func(w http.ResponseWriter, value []byte) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(value)))
		w.Header().Set("ETag", `"`+strings.Repeat("0", 32)+`"`)
		_, _ = w.Write(value) // wrk counts what does not come
	}
	value := []byte(j.Value)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /memory", func(w http.ResponseWriter, _ *http.Request) { answer(w, value) })
	mux.HandleFunc("GET /get", func(w http.ResponseWriter, r *http.Request) {
		text, err := client.Do(r.Context(), client.B().Get().Key(j.Prefix).Build()).AsBytes()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, text)
	})
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	say("http://" + listener.Addr().String())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
