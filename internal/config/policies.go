package config

import (
	"time"
)

// The bounds of policies.
const (
	minEager, maxEager = 1, 90
	minMaxValue        = 64        // bytes
	maxMaxValue        = 256 << 20 // Redis holds 512 MiB in one string
	maxEntryLoads      = 100_000
	maxCompressed      = Size(64 << 20) // no reader makes more of a compressed value
)

// policies judges what the file says of how an entry is loaded and what is served meanwhile. A file that says two things of which
// one can never happen is wrong: whoever wrote it expects something else than what would be done.
func (j *judge) policies(path string, e Entry) {
	j.onChange(path, e)
	j.stale(path+".serve_stale_on_error", e.StaleOnError, e)
	switch soft := e.SoftTimeout; {
	case soft == 0:
	case soft >= e.LoadTimeout:
		j.fail(path+".soft_timeout", "make it shorter than load_timeout, which ends the load", "%s is not shorter than load_timeout, %s",
			formatDuration(soft), formatDuration(e.LoadTimeout))
	case e.StaleOnError > 0 && soft >= e.StaleOnError:
		j.fail(path+".soft_timeout", "make it shorter than serve_stale_on_error, or that longer",
			"when %s are over, no value is stale for less than %s any more, so that none could be taken instead of waiting", formatDuration(soft), formatDuration(e.StaleOnError))
	case e.StaleOnError == 0:
		j.fail(path+".soft_timeout", "add serve_stale_on_error, or remove soft_timeout", "there is no stale value that a read could take instead of waiting")
	}
	if p := e.EagerRefresh; p != nil && (*p < minEager || *p > maxEager) {
		j.fail(path+".eager_refresh", "eager_refresh: 20%", "%s is not between %d%% and %d%%", p, minEager, maxEager)
	}
	if n := e.MaxLoads; n != nil && (*n < 1 || *n > maxEntryLoads) {
		j.fail(path+".max_loads", "remove it for no limit but that of all entries", "%d is not between 1 and %d", *n, maxEntryLoads)
	}
	j.maxValue(path, e.MaxValue)
	if most := min(e.MaxValue, maxCompressed); e.CompressAbove >= most && most >= minMaxValue {
		j.fail(path+".compress_above", "compress_above: 4KiB", "%s is not less than %s, and no larger value is compressed and cached: none would be compressed",
			e.CompressAbove, most)
	}
}

func (j *judge) maxValue(path string, size Size) {
	if size < minMaxValue || size > maxMaxValue {
		j.fail(path+".max_value", "max_value: 1MiB", "%s is not between %s and %s", size, Size(minMaxValue), Size(maxMaxValue))
	}
}

func (j *judge) onChange(path string, e Entry) {
	path += ".on_change"
	switch e.OnChange.Kind {
	case Refresh:
		if e.DependsOn != nil {
			j.fail(path, "write drop, or serve_stale: then the application loads it when it is read next",
				"the daemon cannot refresh what only application code can load and encode (depends_on)")
		}
	case ServeStale:
		if e.OnChange.For == 0 {
			j.fail(path, "on_change: {serve_stale: {for: 2s}}", "for how long a stale value is served is missing")
		}
		j.stale(path+".serve_stale.for", e.OnChange.For, e)
	}
}

// stale judges for how long something stale may be served.
func (j *judge) stale(path string, d time.Duration, e Entry) {
	switch {
	case d == 0:
	case d < time.Millisecond:
		j.fail(path, "", "%s is shorter than a millisecond", d)
	case e.MaxStaleness != 0 && d >= e.MaxStaleness:
		j.fail(path, "make it shorter, or max_staleness longer: the time until a change is known here comes on top",
			"%s is not shorter than max_staleness, %s, which its readers tolerate",
			formatDuration(d), formatDuration(e.MaxStaleness))
	case d > e.TTL:
		j.fail(path, "make it no longer than ttl", "%s is longer than ttl, %s: nothing is kept for so long", formatDuration(d), formatDuration(e.TTL))
	}
}
