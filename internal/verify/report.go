package verify

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/freshet/freshet/internal/envelope"
	"github.com/freshet/freshet/internal/fence"
)

// Report is what was found. docs/json.md describes its JSON.
type Report struct {
	Namespace  string   `json:"namespace,omitempty"`
	Generation string   `json:"generation,omitempty"`
	Seconds    float64  `json:"seconds"`
	Stopped    string   `json:"stopped,omitempty"` // why it ended before its end
	Total      Counts   `json:"total"`
	FreshShare *float64 `json:"fresh_share"` // of what was judged; nil: nothing was
	Nines      *float64 `json:"nines"`       // of FreshShare; nil: nothing was judged, or all of it was fresh
	Entries    []Counts `json:"entries"`     // sorted by name
	// Causes count the violations.
	Causes map[Cause]int `json:"causes"`
	// Reasons count what was not decided.
	Reasons  map[string]int `json:"reasons"`
	Ages     []Bucket       `json:"violation_ages"` // time since the value was filled, of violations
	Differed []Bucket       `json:"differed_for"`   // how long values were seen to differ that are so no more
	Findings []Finding      `json:"findings"`       // the first violations

	entries map[string]*Counts
}

// Counts say what became of the values of an entry. Checked is the sum of Fresh, InFlight, Reordered, Undecided and
// Violations.
type Counts struct {
	Entry        string `json:"entry,omitempty"`
	Checked      int    `json:"checked"`
	Fresh        int    `json:"fresh"`
	InFlight     int    `json:"in_flight"`    // differed, and soon were removed or replaced
	Reordered    int    `json:"reordered"`    // differ in the order of rows alone, and stay
	Undecided    int    `json:"undecided"`    // differ, and could not be judged
	Violations   int    `json:"violations"`   // stale, and nobody will remove them
	Unverifiable int    `json:"unverifiable"` // not checked: loaded by code, no query to compare with
	Unreadable   int    `json:"unreadable"`   // not checked: no reader would take them
	WithoutTTL   int    `json:"without_ttl"`  // checked, and will not expire
}

func (c *Counts) add(d *Counts) {
	c.Checked += d.Checked
	c.Fresh += d.Fresh
	c.InFlight += d.InFlight
	c.Reordered += d.Reordered
	c.Undecided += d.Undecided
	c.Violations += d.Violations
	c.Unverifiable += d.Unverifiable
	c.Unreadable += d.Unreadable
	c.WithoutTTL += d.WithoutTTL
}

// Bucket counts durations up to a bound that are above the bound before.
type Bucket struct {
	UpTo  *float64 `json:"up_to_seconds"` // nil: no bound
	Count int      `json:"count"`
}

// Finding is a violation.
type Finding struct {
	Entry    string    `json:"entry"`
	Key      string    `json:"key"`      // in Redis
	Cached   *string   `json:"cached"`   // nil: "no such row". Long values are cut
	Database *string   `json:"database"` //
	Cause    Cause     `json:"cause,omitempty"`
	Stamp    string    `json:"stamp,omitempty"` // the coverage of the cached value
	Filled   time.Time `json:"filled,omitzero"`
	Age      float64   `json:"age_seconds"`  // since it was filled
	Seen     float64   `json:"seen_seconds"` // since verify first saw it differ
	TTL      *float64  `json:"ttl_seconds"`  // until it expires; nil: never
}

// maxFindings bounds how many violations are described.
const maxFindings = 20

func newReport() *Report {
	return &Report{
		Causes: map[Cause]int{}, Reasons: map[string]int{}, entries: map[string]*Counts{}, Findings: []Finding{},
		Ages:     buckets(time.Second, time.Minute, time.Hour, 24*time.Hour),
		Differed: buckets(10*time.Millisecond, 100*time.Millisecond, time.Second, 10*time.Second),
	}
}

func buckets(bounds ...time.Duration) []Bucket {
	list := make([]Bucket, 0, len(bounds)+1)
	for _, b := range bounds {
		seconds := b.Seconds()
		list = append(list, Bucket{UpTo: &seconds})
	}
	return append(list, Bucket{})
}

func into(list []Bucket, d time.Duration) {
	for i := range list {
		if b := list[i].UpTo; b == nil || d.Seconds() <= *b {
			list[i].Count++
			return
		}
	}
}

// count are the counts of an entry.
func (r *Report) count(entry string) *Counts {
	c := r.entries[entry]
	if c == nil {
		c = &Counts{Entry: entry}
		r.entries[entry] = c
	}
	return c
}

// checked counts a record that is being compared.
func (r *Report) checked(o *one) {
	c := r.count(o.entry.Name)
	c.Checked++
	if o.ttl == 0 {
		c.WithoutTTL++
	}
}

func (r *Report) inFlight(c *candidate, now time.Time) {
	r.count(c.entry.Name).InFlight++
	into(r.Differed, now.Sub(c.found))
}

// stale counts a value that differs and stays, although the store vouches for what it lacks.
func (r *Report) stale(c *candidate, now time.Time) {
	if c.like == otherOrder {
		r.count(c.entry.Name).Reordered++
		return
	}
	cause := causeOf(c.record.Coverage, &c.needs)
	filled := time.UnixMicro(c.record.Filled)
	age := max(0, now.Sub(filled))
	r.count(c.entry.Name).Violations++
	r.Causes[cause]++
	into(r.Ages, age)
	if len(r.Findings) == maxFindings {
		return
	}
	f := Finding{
		Entry: c.entry.Name, Key: c.name, Cause: cause, Stamp: c.record.Coverage.String(), Filled: filled.UTC(),
		Age: age.Seconds(), Seen: now.Sub(c.found).Seconds(),
	}
	if c.record.State == fence.Live {
		f.Cached = excerpt(shown(c.record.Payload))
	}
	if c.truth.Found {
		f.Database = excerpt(c.truth.Payload)
	}
	f.TTL = ttlOf(c.ttl)
	r.Findings = append(r.Findings, f)
}

// ttlOf is how long until a key expires, nil when it does not.
func ttlOf(d time.Duration) *float64 {
	if d == 0 {
		return nil
	}
	seconds := d.Seconds()
	return &seconds
}

// excerpt is a value, cut when it is long.
// shown is a payload as people read it.
func shown(payload []byte) []byte {
	if text, err := envelope.JSONOf(payload); err == nil {
		return text
	}
	return payload
}

func excerpt(text []byte) *string {
	const longest = 400
	s := string(text)
	if len(s) > longest {
		end := longest
		for !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end] + "..."
	}
	return &s
}

// end completes the report of a run that an error, or the end of its context, may have stopped.
func (r *Report) end(ctx context.Context, err error, took time.Duration) {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		r.Stopped = err.Error()
	}
	r.finish(took)
}

// finish computes what follows from the counts. It may be called more than once.
func (r *Report) finish(took time.Duration) {
	r.Seconds = took.Seconds()
	r.Total, r.Entries = Counts{}, []Counts{}
	for _, name := range slices.Sorted(maps.Keys(r.entries)) {
		r.Entries = append(r.Entries, *r.entries[name])
		r.Total.add(r.entries[name])
	}
	r.FreshShare, r.Nines = nines(&r.Total)
}

// nines is the share of fresh values among those that were judged, and how many nines that share begins with, as a
// number with a fraction: 0.999 is 3, 0.99990 is 4.
func nines(c *Counts) (share, count *float64) {
	judged := c.Fresh + c.InFlight + c.Violations
	if judged == 0 {
		return nil, nil
	}
	fresh := float64(c.Fresh) / float64(judged)
	if c.Fresh == judged {
		return &fresh, nil
	}
	n := max(0, -math.Log10(float64(judged-c.Fresh)/float64(judged)))
	return &fresh, &n
}
