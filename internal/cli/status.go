package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/pgsource"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// noDaemon is the phase that status reports when nothing answers at the listen address.
const noDaemon pipeline.Phase = "no_daemon"

func (a *app) status() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "status",
		Short: "Show how far the cache is behind the log, and what the slot keeps",
		Long: "status asks the daemon. When none answers it looks at the slot and at Redis itself, and says that no daemon runs;\n" +
			"the JSON is the same then, with the phase \"no_daemon\".",
		Example: "  freshet status\n  freshet status --json | jq .regions",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runStatus(cmd.Context()) },
	})
}

func (a *app) runStatus(ctx context.Context) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	raw, asked := askDaemon(ctx, c)
	if asked == nil && a.json {
		return a.printJSON(raw)
	}
	var st daemon.Status
	if asked == nil {
		if err := json.Unmarshal(raw, &st); err != nil {
			return fmt.Errorf("read the daemon's status: %w", err)
		}
		a.printStatus(&st)
		return nil
	}
	if st, err = lookOurselves(ctx, c, asked); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(st)
	}
	a.printStatus(&st)
	return nil
}

// askDaemon reads /v1/status at the configured address.
func askDaemon(ctx context.Context, c *config.Config) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	status, body, err := callDaemon(ctx, c, http.MethodGet, "/v1/status")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK || !json.Valid(body) {
		return nil, fmt.Errorf("ask the daemon: %s answers %d %s", c.Listen, status, http.StatusText(status))
	}
	return body, nil
}

// callDaemon makes a request to the daemon at the configured address.
func callDaemon(ctx context.Context, c *config.Config, method, path string) (status int, body []byte, err error) {
	got, err := requestDaemon(ctx, c, method, path, nil, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	return got.status, got.body, nil
}

// daemonAnswer is what a daemon answers.
type daemonAnswer struct {
	status int
	header http.Header
	body   []byte
}

// daemonProblem is an error as the daemon spells it.
type daemonProblem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

func (d *daemonAnswer) problem() (p daemonProblem) {
	if json.Unmarshal(d.body, &p) != nil {
		return daemonProblem{}
	}
	return p
}

// complaint is why the answer is an error.
func (d *daemonAnswer) complaint() string {
	text := fmt.Sprintf("%d %s", d.status, http.StatusText(d.status))
	if p := d.problem(); p.Title != "" {
		text += strings.TrimRight(": "+p.Title+". "+p.Detail, " ")
	}
	return text
}

// requestDaemon makes a request with headers and a body.
func requestDaemon(ctx context.Context, c *config.Config, method, path string, header http.Header, body io.Reader) (*daemonAnswer, error) {
	trust, err := daemon.Trust(c.TLS)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	scheme := "http://"
	if trust != nil {
		scheme = "https://"
	}
	request, err := http.NewRequestWithContext(ctx, method, scheme+reachable(c.Listen)+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	maps.Copy(request.Header, header)
	if token := c.Auth.Token.Reveal(); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: trust}}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // what matters was read
	got := &daemonAnswer{status: response.StatusCode, header: response.Header}
	if got.body, err = io.ReadAll(response.Body); err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	return got, nil
}

// reachable is a listen address as this machine reaches it.
func reachable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// lookOurselves reads the slot, HEAD and roster, for want of a daemon.
func lookOurselves(ctx context.Context, c *config.Config, asked error) (daemon.Status, error) {
	source, region := c.Source.Postgres, daemon.Region{Name: c.RegionName(), Reason: "no daemon runs"}
	st := daemon.Status{Source: daemon.SourceStatus{Slot: source.Slot, Publication: source.Publication}}
	st.Phase, st.Problem = noDaemon, asked.Error()
	conn, err := connectSource(ctx, c)
	if err != nil {
		return st, err
	}
	defer closeConn(ctx, conn)
	var facts postgresFacts
	if err := facts.identify(ctx, conn); err != nil {
		return st, err
	}
	var end string
	if err := conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text`).Scan(&end); err != nil {
		return st, fmt.Errorf("read the end of the log: %w", err)
	}
	insert, err := mvcc.ParseLSN(end)
	if err != nil {
		return st, fmt.Errorf("read the end of the log: %w", err)
	}
	slot, err := pgsource.SlotState(ctx, conn, source.Slot)
	if err != nil {
		return st, err
	}
	st.System, st.Namespace = facts.SystemID, c.NamespaceFor(facts.SystemID, facts.Database)
	st.Source.InsertLSN = end
	if slot.Exists {
		st.Source.ConfirmedLSN, st.Source.RestartLSN, st.Source.WALStatus = slot.Confirmed.String(), slot.Restart.String(), slot.WALStatus
		st.Source.RetainedBytes, st.Source.ConfirmedBytes = slot.RetainedBytes, behind(insert, slot.Confirmed)
		if slot.SafeWALLimited {
			st.Source.SafeWALBytes = &slot.SafeWALSize
		}
	}
	err = fromStore(ctx, c, &st, &region, insert)
	st.Regions = []daemon.Region{region}
	return st, err
}

func behind(end, at mvcc.LSN) int64 {
	if end <= at {
		return 0
	}
	return int64(end - at) //nolint:gosec // a difference of log positions
}

// fromStore adds what the last daemon left in Redis.
func fromStore(ctx context.Context, c *config.Config, st *daemon.Status, region *daemon.Region, insert mvcc.LSN) error {
	if c.InMemory() {
		region.Reason = "no daemon runs, and what was cached was in its memory"
		return nil
	}
	store, err := openStore(ctx, c, st.Namespace, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer store.Close()
	head, found, err := store.Head(ctx)
	if err != nil {
		return fmt.Errorf("region %s: %w", region.Name, err)
	}
	if !found {
		region.Reason = "no daemon runs, and none has ever prepared this Redis"
		return nil
	}
	st.Generation, st.Term, st.Revision, st.Timeline = head.Generation, string(head.Term), head.Revision, head.Timeline
	region.AppliedLSN, region.LagBytes = head.Wc.String(), behind(insert, head.Wc)
	text, found, err := store.Roster(ctx)
	if err != nil || !found {
		return err
	}
	roster, err := rule.ParseRoster(text)
	if err != nil {
		return err
	}
	for e := range roster.Versions() {
		st.Entries = append(st.Entries, pipeline.StatusOf(e))
	}
	pipeline.SortEntries(st.Entries)
	return nil
}

func (a *app) printStatus(st *daemon.Status) {
	var rows [][]string
	add := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
	}
	if st.Phase == noDaemon {
		add("daemon", "no daemon runs: %s", st.Problem)
	} else {
		add("daemon", "%s since %s, started %s", st.Phase, st.Since.Format(time.RFC3339), st.Started.Format(time.RFC3339))
		if st.Problem != "" {
			add("problem", "%s", st.Problem)
		}
	}
	if st.FileRefused != nil {
		why, _, _ := strings.Cut(st.FileRefused.Why, "\n") // the rest shows the lines of the file
		add("file", "NOT applied when it was read again at %s, the one before is in force: %s", st.FileRefused.At.Format(time.RFC3339), why)
	}
	slot := "slot " + st.Source.Slot + " does not exist"
	if st.Source.WALStatus != "" {
		slot = fmt.Sprintf("slot %s (%s) keeps %s of log, confirmed %s, %s behind", st.Source.Slot, st.Source.WALStatus,
			bytesText(st.Source.RetainedBytes), st.Source.ConfirmedLSN, bytesText(st.Source.ConfirmedBytes))
	}
	add("source", "%s", slot)
	if st.Source.SafeWALBytes != nil {
		add("", "lost after another %s of log", bytesText(*st.Source.SafeWALBytes))
	}
	for _, r := range st.Regions {
		fresh := "fresh"
		if !r.Fresh {
			fresh = "NOT fresh: " + r.Reason
		}
		if r.LanesClosed > 0 {
			fresh += fmt.Sprintf(", %d of 16 lanes are lost and read from the database", r.LanesClosed)
		}
		add("region "+r.Name, "applied %s, %s and %s behind, %s", orDash(r.AppliedLSN), bytesText(r.LagBytes),
			short(time.Duration(r.LagSeconds*float64(time.Second))), fresh)
	}
	for _, r := range st.Regions {
		if m := r.Memory; m != nil {
			add("memory", "%s of %s, %d records, %d given up for want of room", bytesText(m.Bytes), bytesText(m.SizeBytes), m.Records, m.Evicted)
		}
	}
	if st.Waiting > 0 {
		add("held back by", "%d batches with a transaction that committed and cannot be seen yet", st.Waiting)
	}
	if st.Admission != "" {
		add("held back by", "%s", st.Admission)
	}
	if st.LastGap != "" {
		add("gaps", "%d, the last: %s", st.Gaps, st.LastGap)
	} else {
		add("gaps", "%d", st.Gaps)
	}
	add("names", "namespace %s, generation %s, roster revision %d", orDash(st.Namespace), orDash(st.Generation), st.Revision)
	a.printTable(rows)
	if len(st.Entries) == 0 {
		return
	}
	a.out("\n")
	table := [][]string{{"entry", "version", "state"}}
	for _, e := range st.Entries {
		state := "cached"
		if e.Suspended != "" {
			state = "not cached: " + strings.TrimSpace(e.Suspended)
		}
		if e.Retained != nil {
			state += ", retained since " + e.Retained.Format(time.RFC3339) + " for libraries with another file"
			if e.LastUsed != nil {
				state += fmt.Sprintf(", used until %s by %s", e.LastUsed.Format(time.RFC3339), e.UsedBy)
			}
		}
		table = append(table, []string{e.Name, e.Version, state})
	}
	a.printTable(table)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
