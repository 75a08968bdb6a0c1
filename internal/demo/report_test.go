package demo

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func sampleReport() *Report {
	held := newStep("a", "one price changes in another session")
	held.Plain = "stale after 50 of 50 writes, until its TTL"
	held.Freshet = "fresh after 50 of 50"
	held.Measured = "COMMIT to fresh: gateway " + held.spread("gateway", []time.Duration{
		3 * time.Millisecond, 1500 * time.Microsecond, 20 * time.Millisecond, 2 * time.Second,
	})
	held.Reads.Gateway = Counts{Reads: 10, Hits: 9, Stale: 1, StaleMS: 2.5}
	held.Reads.Library = Counts{Reads: 12}
	held.Held = true

	broken := newStep("b", "the writer is killed between COMMIT and DEL")
	broken.Plain, broken.Freshet, broken.Measured = "stale", "stale, too", "nothing"
	broken.require(true, "not to be seen")
	broken.require(false, "%d reads returned the old price, which is a long reason that does not fit into one line of the table", 3)
	broken.Reads.Gateway = Counts{Reads: 10, Errors: 2}
	return &Report{OK: false, Seconds: 12.3, Postgres: "15.18", Redis: "7.0.15", Steps: []*Step{held, broken}}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := sampleReport().Table(&out); err != nil {
		t.Fatal(err)
	}
	want := `step                  usual cache-aside code   freshet                   measured               held
----------------------------------------------------------------------------------------------------
a one price changes   stale after 50 of 50     fresh after 50 of 50      COMMIT to fresh:       yes
in another session    writes, until its TTL                              gateway p50 3.0 ms,
                                                                         p99 2.0 s, max 2.0 s
----------------------------------------------------------------------------------------------------
b the writer is       stale                    stale, too                nothing                NO
killed between
COMMIT and DEL
not held: 3 reads returned the old price, which is a long reason that does not fit into one line of
the table
----------------------------------------------------------------------------------------------------
read beside it all: gateway 20 reads (45% hits), 2 without an answer
                    library 12 reads, 0 without an answer
NOT every step held; PostgreSQL 15.18, Redis 7.0.15, 12 s
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("Table (-want +got):\n%s", diff)
	}
}

func TestTableFits(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	r.Steps[0].Measured = strings.Repeat("x", 70) + " and " + strings.Repeat("é", 50)
	var out strings.Builder
	if err := r.Table(&out); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if n := strings.Count(out.String(), "x"); n < 70 {
		t.Errorf("%d of 70 characters of the long word are there", n)
	}
}

func TestReportJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := sampleReport().JSON(&out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		OK    *bool `json:"ok"`
		Steps []struct {
			Step    string             `json:"step"`
			Held    bool               `json:"held"`
			Reasons []string           `json:"reasons"`
			Figures map[string]float64 `json:"figures"`
			Reads   Reads              `json:"reads"`
		} `json:"steps"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.OK == nil || *got.OK || len(got.Steps) != 2 {
		t.Fatalf("JSON = %s", out.String())
	}
	a := got.Steps[0]
	want := map[string]float64{"gateway_p50_ms": 3, "gateway_p99_ms": 2000, "gateway_max_ms": 2000}
	if diff := cmp.Diff(want, a.Figures); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
	if !a.Held || a.Reasons == nil || a.Reads.Gateway.StaleMS != 2.5 {
		t.Errorf("step a = %+v", a)
	}
	if b := got.Steps[1]; b.Held || len(b.Reasons) != 1 {
		t.Errorf("step b = %+v", b)
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, tt := range []struct {
		of   []time.Duration
		p    int
		want time.Duration
	}{{hundred, 50, 50}, {hundred, 99, 99}, {hundred[:10], 99, 10}, {hundred[:1], 50, 1}, {hundred[:3], 50, 2}} {
		if got := percentile(tt.of, tt.p); got != tt.want {
			t.Errorf("percentile(%d durations, %d) = %d, want %d", len(tt.of), tt.p, got, tt.want)
		}
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0.0 ms", 1234 * time.Microsecond: "1.2 ms", 123 * time.Millisecond: "123 ms", 1250 * time.Millisecond: "1.2 s", 72 * time.Second: "72 s",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestBackgroundReadsAreJudged(t *testing.T) {
	t.Parallel()
	good := Counts{Reads: 1}
	for _, tt := range []struct {
		name       string
		reads      Reads
		daemonDown bool
		reasons    int
	}{
		{"all well", Reads{good, good}, false, 0},
		{"nobody read", Reads{}, false, 2},
		{"untrue", Reads{Counts{Reads: 1, Untrue: 1}, good}, true, 1},
		{"no answer", Reads{Counts{Reads: 1, Errors: 1}, good}, false, 1},
		{"no answer from a gateway that is down", Reads{Counts{Reads: 1, Errors: 1}, good}, true, 0},
		{"no answer from the library", Reads{good, Counts{Reads: 1, Errors: 1}}, true, 1},
		{"stale for long", Reads{good, Counts{Reads: 1, Stale: 1, StaleMS: 6000}}, false, 1},
		{"stale while the daemon is down", Reads{good, Counts{Reads: 1, Stale: 1, StaleMS: 6000}}, true, 0},
	} {
		step := newStep("x", tt.name)
		step.Reads = tt.reads
		step.requireReads(tt.daemonDown)
		if len(step.Reasons) != tt.reasons {
			t.Errorf("%s: reasons = %q, want %d", tt.name, step.Reasons, tt.reasons)
		}
	}
}
