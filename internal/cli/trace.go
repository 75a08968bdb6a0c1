package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/trace"
)

func (a *app) trace() *cobra.Command {
	var nulls []string
	cmd := a.jsonFlag(&cobra.Command{
		Use:   "trace ENTRY [ARG...]",
		Short: "Show what happened to one key: loads, refused loads, and what invalidated it",
		Long: "trace says why a key was invalidated: by which row of which transaction, through which rule, and when that was applied;\n" +
			"which loads of it were stored, which were not, and why; and what is cached now. It loads nothing.\n" +
			"What the log did is remembered by the daemon that follows it, since it started and as far as its memory for it goes;\n" +
			"what readers loaded is noted in the store, about a second later. When no daemon answers, the latter is all there is.\n" +
			"Arguments are those of get.",
		Example:           "  freshet trace product 42\n  freshet trace user_profile 7 --json | jq '.events[] | select(.kind == \"invalidated\")'\n  freshet trace page home --null lang",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeEntry,
		RunE: func(cmd *cobra.Command, args []string) error {
			return unconnected(a.runTrace(cmd.Context(), args[0], args[1:], nulls))
		},
	})
	cmd.Flags().StringSliceVar(&nulls, "null", nil, "`names` of parameters that are NULL; they have no ARG")
	return cmd
}

func (a *app) runTrace(ctx context.Context, entry string, texts, nulls []string) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if err := noSuchEntry(c, entry); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	raw, history, err := traceByDaemon(ctx, c, entry, texts, nulls)
	switch {
	case err == nil && a.json:
		return a.printJSON(raw)
	case err == nil:
		a.printTrace(history)
		return nil
	}
	if wrong, ok := errors.AsType[*exitError](err); ok {
		return wrong
	}
	if c.InMemory() {
		return errNoDaemon(err)
	}
	if history, err = a.traceOurselves(ctx, c, entry, texts, nulls, err); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(history)
	}
	a.printTrace(history)
	return nil
}

// traceByDaemon asks the daemon. Its error is an exitError where what the daemon has answered is the last word.
func traceByDaemon(ctx context.Context, c *config.Config, entry string, texts, nulls []string) (json.RawMessage, *trace.History, error) {
	template, err := rule.ParseTemplate(c.Entries[entry].Key)
	if err != nil {
		return nil, nil, err
	}
	query := url.Values{}
	named := make([]rule.Param, 0, len(texts)+len(nulls))
	for _, name := range template.Params() {
		named = append(named, rule.Param{Name: name, Type: keytext.Unknown})
	}
	args, err := arguments(named, texts, nulls) // their types are the daemon's to know
	if err != nil {
		return nil, nil, &exitError{code: exitUsage, err: err, try: usageOf("trace", entry, named)}
	}
	for i, arg := range args {
		if !arg.Null {
			query.Set(named[i].Name, arg.Text)
		}
	}
	path := "/v1/trace/" + url.PathEscape(entry)
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := requestDaemon(ctx, c, http.MethodGet, path, nil, http.NoBody)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("no daemon answers: %w", err)
	case answer.status == http.StatusBadRequest:
		return nil, nil, &exitError{code: exitUsage, err: errors.New(answer.complaint()), try: usageOf("trace", entry, named)}
	case answer.status == http.StatusUnauthorized:
		return nil, nil, &exitError{code: exitFailure, err: errors.New(answer.complaint()), try: "auth.token (or token_file) of the file is that of the daemon at " + c.Listen}
	case answer.status == http.StatusNotFound && strings.HasSuffix(answer.problem().Type, ":entry-not-declared"):
		return nil, nil, &exitError{
			code: exitFailure, err: fmt.Errorf("the daemon does not know the entry %s, which the file declares", entry), try: "freshet reload",
		}
	case answer.status != http.StatusOK:
		return nil, nil, fmt.Errorf("trace %s: the daemon at %s answers %s", entry, c.Listen, answer.complaint())
	}
	var history trace.History
	if err := json.Unmarshal(answer.body, &history); err != nil {
		return nil, nil, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return answer.body, &history, nil
}

// traceOurselves reads what the store has, for want of a daemon.
func (a *app) traceOurselves(ctx context.Context, c *config.Config, entry string, texts, nulls []string, asked error) (*trace.History, error) {
	logger, err := a.logger(slog.LevelError)
	if err != nil {
		return nil, err
	}
	s, err := openServers(ctx, c, logger)
	if err != nil {
		return nil, errors.Join(asked, err)
	}
	defer s.close()
	reader, err := s.reader(c, logger)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	params, err := reader.Named(ctx, entry)
	if err != nil {
		return nil, err
	}
	args, err := arguments(params, texts, nulls)
	if err != nil {
		return nil, &exitError{code: exitUsage, err: err, try: usageOf("trace", entry, params)}
	}
	spelled, err := reader.Spell(ctx, entry, args)
	if err != nil {
		return nil, err
	}
	h := trace.Of(ctx, trace.Where{
		Entry: entry, Args: args, Key: spelled.Key, Name: spelled.Name, Epochs: spelled.Epochs, Tied: spelled.Tied, Why: spelled.Why,
	}, s.store, nil)
	h.Problems = append(h.Problems, asked.Error())
	return h, nil
}

func (a *app) printTrace(h *trace.History) {
	rows := [][]string{{"key", h.Key}}
	if h.Name != "" {
		rows = append(rows, []string{"in the store", h.Name})
	}
	if r := h.Record; r != nil {
		rows = append(rows, []string{"now", nowText(r)})
		if r.Stamp != "-" {
			rows = append(rows, []string{"stamp", r.Stamp})
		}
	}
	if h.Since != nil {
		rows = append(rows, []string{"the log since", clock(*h.Since)})
	}
	for _, p := range h.Problems {
		rows = append(rows, []string{"not known", p})
	}
	a.printTable(rows)
	if len(h.Events) == 0 && len(h.Problems) > 0 {
		a.out("\nNo more is known of this key.\n")
		return
	}
	if len(h.Events) == 0 {
		a.out("\nNothing is remembered of this key.\n")
		return
	}
	a.out("\n")
	if h.More {
		a.out("(older events are not shown)\n")
	}
	table := [][]string{{"when", "what", "why"}}
	for i := range h.Events {
		e := &h.Events[i]
		table = append(table, []string{clock(e.At), strings.ReplaceAll(e.Kind, "_", " "), inOneLine(e.Why) + store.Printable(detail(e))})
	}
	a.printTable(table)
}

// inOneLine is a reason that may have several lines, as those of the planner do, without the line of the query that it points at.
func inOneLine(why string) string {
	var parts []string
	for line := range strings.Lines(why) {
		text := strings.TrimSpace(line)
		switch {
		case text == "":
		case text == "^" && len(parts) > 1:
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, text)
		}
	}
	return store.Printable(strings.Join(parts, "; "))
}

func nowText(r *trace.Record) string {
	text := r.State
	switch {
	case r.Ended:
		text += ", but what it was tied to has ended: the next read loads it"
	case r.State == "none":
		text = "not cached"
	}
	if r.Filled != nil {
		text += ", filled " + short(time.Duration(r.Age*float64(time.Second))) + " ago"
	}
	if r.Leased {
		text += ", somebody is loading it"
	}
	if n := len(r.Fences); n > 0 {
		text += ", " + plural(n, "change") + " that a load has to contain"
	}
	return text
}

// detail is what an event says besides.
func detail(e *trace.Event) string {
	var parts []string
	add := func(name, text string) {
		if text != "" && text != "0" {
			parts = append(parts, name+text)
		}
	}
	if e.Rule > 0 {
		add("rule ", strconv.Itoa(e.Rule)+" ("+e.Class+")")
	}
	add("transaction ", strconv.FormatUint(e.XID, 10))
	add("LSN ", e.LSN)
	if e.XID != 0 && e.Applied == nil {
		parts = append(parts, "not applied yet")
	}
	if e.Applied != nil && e.Committed != nil {
		add("applied after ", short(max(e.Applied.Sub(*e.Committed), 0)))
	}
	if e.Took > 0 {
		add("in ", short(time.Duration(e.Took*float64(time.Second))))
	}
	if slices.Contains([]string{trace.Refused, trace.Stored, trace.Renewed}, e.Kind) {
		add("snapshot ", e.Coverage)
	}
	if e.Kind == trace.Refused {
		add("", e.Outcome)
	}
	add("by ", e.By)
	if len(parts) == 0 {
		return ""
	}
	return " [" + strings.Join(parts, ", ") + "]"
}

// clock is a moment of today, or a whole one.
func clock(t time.Time) string {
	t = t.Local()
	if now := time.Now(); t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05.000")
	}
	return t.Format("2006-01-02 15:04:05.000")
}
