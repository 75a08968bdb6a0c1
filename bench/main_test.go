package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also runs followers: the program starts itself for them, and in a test that is the test's binary.
func TestMain(m *testing.M) {
	if text := os.Getenv(childVariable); text != "" {
		os.Exit(childMain(context.Background(), text)) //nolint:forbidigo // a process of its own
	}
	goleak.VerifyTestMain(m)
}

// TestEverythingRuns runs all parts with tiny sizes: each bound has its figure, and none of them is zero but the count
// of stale reads.
func TestEverythingRuns(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	none := func(string) (string, bool) { return "", false }
	b, chosen, err := parse([]string{"-short"}, none, &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.all(t.Context(), chosen); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if code := b.conclude(chosen); code != 0 {
		t.Errorf("exit code %d:\n%s", code, out.String())
	}
	for _, f := range b.figures {
		switch {
		case strings.HasPrefix(f.name, "killed/plain/"): // some are, as it happens
		case strings.HasSuffix(f.name, "/stale"):
			if f.value != 0 {
				t.Errorf("%s: %g %s", f.name, f.value, f.unit)
			}
		case strings.HasSuffix(f.name, "/rate"), strings.HasSuffix(f.name, "/p50"), strings.HasPrefix(f.name, "hit/"),
			strings.HasPrefix(f.name, "peers/"), strings.HasPrefix(f.name, "stampede/"):
			if f.value <= 0 {
				t.Errorf("%s = %g %s, want more than nothing", f.name, f.value, f.unit)
			}
		}
	}
}

func TestConclude(t *testing.T) {
	t.Parallel()
	within := []figure{
		{"drain/many/rate", 1.5, "times"},
		{"drain/one/rate", 2, "times"},
		{"drain/many/memory", 30, "MiB"},
		{"drain/one/memory", 1, "MiB"},
	}
	with := func(f figure) []figure {
		figures := make([]figure, 0, len(within))
		for _, w := range within {
			if w.name == f.name {
				w = f
			}
			figures = append(figures, w)
		}
		return figures
	}
	for _, tt := range []struct {
		name    string
		figures []figure
		chosen  []string
		want    int
		last    string
	}{
		{"all kept", within, []string{"drain"}, 0, "bench: every bound was kept\n"},
		{"a ratio too low", with(figure{"drain/one/rate", 1.49, "times"}), []string{"drain"}, 1, "bench: bounds missed: drain/one/rate\n"},
		{"too much memory", with(figure{"drain/many/memory", 30.1, "MiB"}), []string{"drain"}, 1, "bench: bounds missed: drain/many/memory\n"},
		{"not measured", within[1:], []string{"drain"}, 1, "bench: bounds missed: drain/many/rate (not measured)\n"},
		{"another part not chosen", nil, []string{}, 0, "bench: every bound was kept\n"},
		{"too small to judge", with(figure{"drain/one/rate", 0.1, "times"}), []string{"drain", unjudged}, 0, "bench: everything ran; nothing was judged\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			b := &bench{out: &out, figures: tt.figures}
			if got := b.conclude(tt.chosen); got != tt.want {
				t.Errorf("conclude() = %d, want %d", got, tt.want)
			}
			if !strings.HasSuffix(out.String(), "\n"+tt.last) {
				t.Errorf("the last line is not %q:\n%s", tt.last, out.String())
			}
		})
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	set := func(values map[string]string) func(string) (string, bool) {
		return func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	}
	for _, tt := range []struct {
		name        string
		args        []string
		environment map[string]string
		chosen      string
		seed        uint64
		fails       string
	}{
		{name: "everything", chosen: "drain,latency,hit,l1,demand,revalidate,many,gateway,stampede,tags,hot,standby,killed,peers", seed: 1},
		{name: "by environment", environment: map[string]string{"BENCH": "hit,hot", "SEED": "7"}, chosen: "hit,hot", seed: 7},
		{name: "empty environment", environment: map[string]string{"BENCH": "", "SEED": ""}, chosen: "drain,latency,hit,l1,demand,revalidate,many,gateway,stampede,tags,hot,standby,killed,peers", seed: 1},
		{name: "a flag wins", args: []string{"-parts", "drain"}, environment: map[string]string{"BENCH": "hit"}, chosen: "drain", seed: 1},
		{name: "short", args: []string{"-short", "-parts", "hit"}, chosen: "hit," + unjudged, seed: 1},
		{name: "no such part", args: []string{"-parts", "drian"}, fails: `no part is called "drian"`},
		{name: "no number", args: []string{"-seed", "x"}, fails: "read seed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			b, chosen, err := parse(tt.args, set(tt.environment), &out)
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Errorf("parse() = %v, want an error with %q", err, tt.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(chosen, ","); got != tt.chosen || b.seed != tt.seed {
				t.Errorf("parse() = %s, seed %d, want %s, seed %d", got, b.seed, tt.chosen, tt.seed)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	values := []int{5, 1, 4, 2, 3}
	if got := median(values); got != 3 {
		t.Errorf("median() = %d, want 3", got)
	}
	if got := quantile(values, 1); got != 5 {
		t.Errorf("quantile(1) = %d, want 5", got)
	}
	if got := quantile([]int{}, 0.5); got != 0 {
		t.Errorf("quantile of nothing = %d, want 0", got)
	}
	if values[0] != 5 {
		t.Error("quantile changed the order of its argument")
	}
}

func TestUpdated(t *testing.T) {
	t.Parallel()
	row := []byte("U\x00\x00\x00\x01N\x00\x01t\x00\x00\x00\x0212")
	if got := updated(row); string(got) != "12" {
		t.Errorf("updated() = %q, want 12", got)
	}
	for _, other := range [][]byte{nil, []byte("C"), append([]byte("I"), row[1:]...), []byte("U\x00\x00\x00\x01N\x00\x01n\x00\x00\x00\x00")} {
		if got := updated(other); got != nil {
			t.Errorf("updated(%q) = %q, want nothing", other, got)
		}
	}
}

func TestReadWrk(t *testing.T) {
	t.Parallel()
	const said = `Running 2s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.10ms    1.00ms  20.00ms   90.00%
  Latency Distribution
     50%    1.90ms
     99%  %s
  60000 requests in 2.00s, 10.00MB read
Requests/sec:  30000.50
`
	for percentile, want := range map[string]float64{"812.00us": 0.812, "7.50ms": 7.5, "1.20s": 1200} {
		rate, p99, err := readWrk([]byte(strings.Replace(said, "%s", percentile, 1)))
		if err != nil || rate != 30000.5 || p99 != want {
			t.Errorf("%s: %v, %v, %v", percentile, rate, p99, err)
		}
	}
	for _, bad := range []string{"", "Requests/sec: 12.0\n", said + "  Non-2xx or 3xx responses: 12\n", said + "  Socket errors: connect 0, read 3, write 0, timeout 0\n"} {
		if _, _, err := readWrk([]byte(strings.Replace(bad, "%s", "1.00ms", 1))); err == nil {
			t.Errorf("no error of %q", bad)
		}
	}
}

// TestSample: benchstat reads what is written, and tells who was measured apart.
func TestSample(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	b := &bench{sampled: &out, part: "hit"}
	b.sample("cached/goroutines=16", "go-redis/cache, local", 12.5, "ns/op")
	if got, want := out.String(), "BenchmarkHit/cached/goroutines=16/by=go-redis-cache-local 1 12.5 ns/op\n"; got != want {
		t.Errorf("sample() wrote %q, want %q", got, want)
	}
	(&bench{part: "hit"}).sample("cached", "x", 1, "ns/op") // nobody asked for any
}
