package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/envelope"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// got is the JSON of get.
type got struct {
	Entry  string          `json:"entry"`
	Args   []*string       `json:"args"` // in canonical text; null is NULL
	Found  bool            `json:"found"`
	Value  json.RawMessage `json:"value"`
	Status string          `json:"status"`           // hit, miss, revalidated, stale or bypass
	Reason string          `json:"reason,omitempty"` // why the cache could not be used, or was not filled, or a stale value was served
	State  string          `json:"state"`            // of the record after the read: none, live, negative, stale, stale_negative
	Stamp  string          `json:"stamp"`            // the coverage: which transactions the value contains
	Filled *time.Time      `json:"filled,omitempty"`
	Age    float64         `json:"age_seconds"`
	Key    string          `json:"key,omitempty"` // in Redis
	Leased bool            `json:"leased"`        // somebody is loading it
	Fences int             `json:"fences"`        // changes that a load under way has to contain
	Epochs []string        `json:"epochs"`        // what the value is tied to besides its record

	unreadable string // what is there instead of a value that cannot be shown
}

func (a *app) get() *cobra.Command {
	var (
		nulls      []string
		after      string
		maxStale   time.Duration
		revalidate bool
	)
	cmd := a.jsonFlag(&cobra.Command{
		Use:   "get ENTRY [ARG...]",
		Short: "Read one entry as a reader sees it, with its stamp, age and state",
		Long: "get reads one entry as a reader does: from the cache, or else from the database, filling the cache.\n" +
			"Arguments follow the order of the entry's key and are written as PostgreSQL writes the type's text.\n" +
			"--after has the value contain the transaction that a token names; it may take until the entry's load_timeout.\n" +
			"--max-stale has it miss nothing that was committed longer ago; only a daemon that runs can prove so much of a\n" +
			"cached value to a reader that has been there for a moment, which this command has not: it asks the database.\n" +
			"--revalidate asks the database whether it still has what is cached.",
		Example: "  freshet get product 42\n  freshet get user_profile 7 --json\n  freshet get page home --null lang\n" +
			"  freshet get product 42 --after 7351234567890123456.00000001.748\n  freshet get product 42 --max-stale 2s",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeEntry,
		RunE: func(cmd *cobra.Command, args []string) error {
			d := fill.Demand{Revalidate: revalidate, Bounded: cmd.Flags().Changed("max-stale"), MaxStale: maxStale}
			if after != "" {
				token, err := mvcc.ParseToken(after)
				if err != nil {
					return &exitError{code: exitUsage, err: fmt.Errorf("--after: %w", err), try: "a token is SYSTEM.TIMELINE.XID or SYSTEM.TIMELINE.XID.LSN"}
				}
				d.After = []mvcc.Token{token}
			}
			if maxStale < 0 {
				return &exitError{code: exitUsage, err: fmt.Errorf("--max-stale: %s is negative", maxStale), try: "a duration such as 2s"}
			}
			return unconnected(a.runGet(cmd.Context(), args[0], args[1:], nulls, &d))
		},
	})
	cmd.Flags().StringSliceVar(&nulls, "null", nil, "`names` of parameters that are NULL; they have no ARG")
	cmd.Flags().StringVar(&after, "after", "", "the `token` of a transaction that the value has to contain")
	cmd.Flags().BoolVar(&revalidate, "revalidate", false, "have the database say that the value is what it has")
	cmd.Flags().DurationVar(&maxStale, "max-stale", 0, "how long ago what the value misses may have been committed at most")
	return cmd
}

func (a *app) runGet(ctx context.Context, entry string, texts, nulls []string, d *fill.Demand) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if err := noSuchEntry(c, entry); err != nil {
		return err
	}
	logger, err := a.logger(slog.LevelError)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience+c.Entries[entry].LoadTimeout)
	defer cancel()
	if c.InMemory() {
		return a.getFromDaemon(ctx, c, entry, texts, nulls, d)
	}
	s, err := openServers(ctx, c, logger)
	if err != nil {
		return err
	}
	defer s.close()
	reader, err := s.reader(c, logger)
	if err != nil {
		return err
	}
	defer reader.Close()

	params, err := reader.Params(ctx, entry)
	if err != nil {
		return err
	}
	args, err := arguments(params, texts, nulls)
	if err != nil {
		return &exitError{code: exitUsage, err: err, try: usageOf("get", entry, params)}
	}
	value, err := reader.GetUnder(ctx, entry, args, nil, d)
	switch {
	case errors.Is(err, fill.ErrTokenNotReached):
		return &exitError{code: exitFailure, err: err, try: "read again once its COMMIT has returned"}
	case errors.Is(err, fill.ErrForeignToken):
		return &exitError{code: exitUsage, err: err, try: "a token that was made in the database of freshet.yaml"}
	case errors.Is(err, fill.ErrNoLoader):
		return &exitError{code: exitFailure, err: err, try: "read it in the application that loads it"}
	case err != nil:
		return fmt.Errorf("get %s: %w", entry, err)
	}
	return a.printGot(ctx, s.store, entry, args, value)
}

func (a *app) printGot(ctx context.Context, store *redisstore.Store, entry string, args []keytext.Arg, v fill.Value) error {
	_, stamp := v.Stamp()
	g := newGot(entry, args)
	g.Found, g.Status, g.Reason, g.Stamp, g.Key = v.Found, v.Status.String(), v.Reason, stamp.String(), v.Name
	value, unreadable := envelope.JSONOf(v.Payload)
	switch {
	case v.Found && unreadable == nil:
		g.Value = value
	case v.Found:
		g.unreadable = fmt.Sprintf("(%d bytes: %v)", len(v.Payload), unreadable)
	}
	if v.Name != "" {
		if record, err := store.Get(ctx, v.Name); err == nil { // a store that is away has no record to show
			g.describe(&record)
		}
	}
	return a.showGot(g)
}

// newGot is an answer about a key, of which nothing is known yet.
func newGot(entry string, args []keytext.Arg) *got {
	g := &got{Entry: entry, Args: []*string{}, Epochs: []string{}, Value: json.RawMessage("null"), State: "none", Stamp: "-"}
	for _, arg := range args {
		if arg.Null {
			g.Args = append(g.Args, nil)
		} else {
			g.Args = append(g.Args, &arg.Text)
		}
	}
	return g
}

// describe adds what the record says.
func (g *got) describe(record *fence.Record) {
	g.State, g.Fences = record.State.String(), len(record.Fences)
	g.Leased = !record.Lease.IsZero()
	for _, e := range record.Epochs {
		g.Epochs = append(g.Epochs, e.Name)
	}
	if record.Filled > 0 {
		filled := time.UnixMicro(record.Filled)
		g.Filled, g.Age = &filled, max(0, time.Since(filled).Seconds())
	}
}

func (a *app) showGot(g *got) error {
	if a.json {
		return a.printJSON(g)
	}
	text := "(no such row)"
	if g.Found {
		text = string(g.Value)
		if g.unreadable != "" {
			text = g.unreadable
		}
	}
	a.out(text + "\n")
	rows := [][]string{{"status", withReason(g.Status, g.Reason)}, {"state", g.State}}
	if g.Filled != nil {
		rows = append(rows, []string{"age", short(time.Duration(g.Age * float64(time.Second)))})
	}
	rows = append(rows, []string{"stamp", g.Stamp})
	if g.Key != "" {
		rows = append(rows, []string{"key", g.Key})
	}
	if n := len(g.Epochs); n > 0 {
		const shown = 8
		text := strings.Join(g.Epochs[:min(n, shown)], " ")
		if n > shown {
			text += fmt.Sprintf(" and %d more", n-shown)
		}
		rows = append(rows, []string{"epochs", text})
	}
	a.printTable(rows)
	return nil
}

func withReason(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + " (" + reason + ")"
}

// arguments puts texts into canonical form, in the order of the parameters that are not NULL.
func arguments(params []rule.Param, texts, nulls []string) ([]keytext.Arg, error) {
	isNull := map[string]bool{}
	for _, name := range nulls {
		isNull[name] = true
	}
	args := make([]keytext.Arg, 0, len(params))
	for _, p := range params {
		if isNull[p.Name] {
			delete(isNull, p.Name)
			args = append(args, keytext.Arg{Null: true})
			continue
		}
		if len(texts) == 0 {
			return nil, fmt.Errorf("the argument for parameter %q (%s) is missing", p.Name, p.Type)
		}
		text, err := keytext.Canonical(p.Type, texts[0])
		if err != nil {
			return nil, fmt.Errorf("parameter %q: %w", p.Name, err)
		}
		args, texts = append(args, keytext.Arg{Text: text}), texts[1:]
	}
	if len(texts) > 0 {
		return nil, fmt.Errorf("%s too many", plural(len(texts), "argument"))
	}
	for name := range isNull {
		return nil, fmt.Errorf("--null: there is no parameter %q", name)
	}
	return args, nil
}

func usageOf(command, entry string, params []rule.Param) string {
	parts := []string{"freshet " + command, entry}
	for _, p := range params {
		parts = append(parts, strings.ToUpper(p.Name))
	}
	return strings.Join(parts, " ")
}

func join(names []string) string { return strings.Join(names, ", ") }
