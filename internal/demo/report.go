package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// Report is the whole story as it went. docs/demo.md describes its JSON.
type Report struct {
	OK       bool    `json:"ok"`
	Seconds  float64 `json:"seconds"`
	Postgres string  `json:"postgres"`
	Redis    string  `json:"redis"`
	Steps    []*Step `json:"steps"`
}

// Step is one step of the story.
type Step struct {
	Step     string `json:"step"` // a letter
	Title    string `json:"title"`
	Plain    string `json:"plain"`    // what the cache-aside code did
	Freshet  string `json:"freshet"`  // what freshet did
	Measured string `json:"measured"` // the figures in short
	Held     bool   `json:"held"`
	// Reasons say why the step did not hold.
	Reasons []string           `json:"reasons"`
	Seconds float64            `json:"seconds"`
	Figures map[string]float64 `json:"figures"`
	Reads   Reads              `json:"reads"`
}

// Reads are those of the readers in the background while the step went on.
type Reads struct {
	Gateway Counts `json:"gateway"`
	Library Counts `json:"library"`
}

// Counts are the reads of one reader.
type Counts struct {
	Reads  int `json:"reads"`
	Hits   int `json:"hits"` // of the gateway only: the library does not say
	Errors int `json:"errors"`
	// Stale reads began after COMMIT of a newer value had returned, by StaleMS milliseconds at most.
	Stale   int     `json:"stale"`
	StaleMS float64 `json:"stale_ms"`
	// Untrue reads returned what the row never was.
	Untrue int `json:"untrue"`

	lastError error
}

func newStep(letter, title string) *Step {
	return &Step{Step: letter, Title: title, Reasons: []string{}, Figures: map[string]float64{}}
}

// require notes why the step does not hold unless what it promised was seen.
func (s *Step) require(seen bool, format string, args ...any) {
	if !seen {
		s.Reasons = append(s.Reasons, fmt.Sprintf(format, args...))
	}
}

// milliseconds notes a duration.
func (s *Step) milliseconds(name string, d time.Duration) {
	s.Figures[name] = milliseconds(d)
}

// count notes a number.
func (s *Step) count(name string, n int) { s.Figures[name] = float64(n) }

// milliseconds is a duration as JSON has it, to the microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// spread notes median, 99th percentile and maximum of durations, and says them.
func (s *Step) spread(name string, durations []time.Duration) string {
	if len(durations) == 0 {
		return "none"
	}
	sorted := slices.Sorted(slices.Values(durations))
	p50, p99, longest := percentile(sorted, 50), percentile(sorted, 99), sorted[len(sorted)-1]
	s.milliseconds(name+"_p50_ms", p50)
	s.milliseconds(name+"_p99_ms", p99)
	s.milliseconds(name+"_max_ms", longest)
	return fmt.Sprintf("p50 %s, p99 %s, max %s", short(p50), short(p99), short(longest))
}

// percentile is the smallest of the sorted durations that p percent of them do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	at := (len(sorted)*p + 99) / 100
	return sorted[max(at-1, 0)]
}

// short is a duration to three digits at most.
func short(d time.Duration) string {
	switch {
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.1f ms", milliseconds(d))
	}
}

// JSON writes the report as JSON.
func (r *Report) JSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
