package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Options says how the story is told.
type Options struct {
	// Listen is where the gateway listens. Default: a free port on the loopback address.
	Listen string
	// Once tells the story and ends. Otherwise everything keeps serving after it until the context ends.
	Once bool
	// JSON writes the report as JSON instead of as a table.
	JSON bool
	// Keep leaves the demo's files and the servers' data in their directory.
	Keep bool
	// Stdout gets the report, Stderr what is happening meanwhile.
	Stdout, Stderr io.Writer
	// Executable is the path of the freshet binary, which is the daemon and the plain writer.
	Executable string
}

// Run tells the story. ok says whether every step of it held; the error, why there is no report, or why something did
// not end in order.
func Run(ctx context.Context, options Options) (ok bool, err error) {
	begun := time.Now()
	s, err := openStage(ctx, options)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.close()) }()

	report := &Report{Postgres: s.postgresVersion, Redis: s.redisVersion, Steps: []*Step{}}
	if err := s.tell(ctx, report); err != nil {
		return false, err
	}
	report.Seconds = milliseconds(time.Since(begun).Round(time.Millisecond)) / 1000
	write := report.Table
	if options.JSON {
		write = report.JSON
	}
	if err := write(options.Stdout); err != nil {
		return false, err
	}
	if !options.Once {
		if err := s.invite(); err != nil {
			return false, err
		}
		<-ctx.Done()
	}
	return report.OK, nil
}

// tell goes through the steps. A step that breaks down has not held, and the next one begins.
func (s *stage) tell(ctx context.Context, report *Report) error {
	readers, stop := s.startReaders(ctx)
	defer stop()
	report.OK = true
	for _, part := range []struct {
		letter, title string
		play          func(context.Context, *Step) error
	}{
		{"a", "a price changes in another session", s.priceChanges},
		{"b", "the writer is killed between COMMIT and DEL", s.writerDies},
		{"c", "a row of a three-table entry changes", s.profileChanges},
		{"d", "a slow reader holds an old row", s.slowReader},
		{"e", "kill -9 of the daemon under writes", s.daemonDies},
		{"f", "Redis restarts empty", s.redisEmpties},
	} {
		step := newStep(part.letter, part.title)
		s.say("step %s: %s", part.letter, part.title)
		readers.take()
		begun := time.Now()
		if err := part.play(ctx, step); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("the demo was interrupted in step %s: %w", part.letter, context.Cause(ctx))
			}
			step.require(false, "%v", err)
		}
		step.Seconds = milliseconds(time.Since(begun).Round(time.Millisecond)) / 1000
		step.Reads = readers.take()
		step.requireReads(part.letter == "e")
		step.Held = len(step.Reasons) == 0
		report.OK = report.OK && step.Held
		report.Steps = append(report.Steps, step)
		s.say("step %s: %s", part.letter, step.verdict())
	}
	return nil
}

// requireReads judges the background readers. While the daemon is down its gateway cannot answer, and what is cached
// gets no fresher.
func (s *Step) requireReads(daemonDown bool) {
	for _, reader := range []struct {
		name   string
		counts Counts
		excuse bool
	}{{"gateway", s.Reads.Gateway, daemonDown}, {"library", s.Reads.Library, false}} {
		c := reader.counts
		s.require(c.Reads > 0, "nobody read through the %s", reader.name)
		s.require(c.Untrue == 0, "%d background reads through the %s returned what was never true", c.Untrue, reader.name)
		s.require(c.Errors == 0 || reader.excuse, "%d background reads through the %s got no answer: %v", c.Errors, reader.name, c.lastError)
		s.require(c.StaleMS < milliseconds(freshWithin) || daemonDown, "a background read through the %s was stale by %.0f ms",
			reader.name, c.StaleMS)
	}
}

func (s *Step) verdict() string {
	if s.Held {
		return "held (" + s.Measured + ")"
	}
	return fmt.Sprintf("did NOT hold: %q", s.Reasons)
}
