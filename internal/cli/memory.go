package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/api"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
)

// What a store in a daemon's own memory holds is looked at through that daemon.

// errNoDaemon is the error of a command that needs the daemon, since the store is in its memory.
func errNoDaemon(err error) error {
	return &exitError{
		code: exitFailure,
		err:  fmt.Errorf("the file has no regions, so what is cached is in the memory of the daemon alone: %w", err),
		try:  "start the daemon (freshet serve), or name a Redis under regions",
	}
}

// memoryKeys reads the store of a daemon, over HTTP. It implements verify.Reader.
type memoryKeys struct {
	conf *config.Config
	said api.StoreHead // its last answer
}

// openMemory asks the daemon for its store.
func openMemory(ctx context.Context, c *config.Config) (*memoryKeys, error) {
	m := &memoryKeys{conf: c}
	if _, _, err := m.Head(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// ask makes a request and reads its answer into into.
func (m *memoryKeys) ask(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var sent io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("ask the daemon: %w", err)
		}
		sent = bytes.NewReader(text)
	}
	got, err := requestDaemon(ctx, m.conf, method, path, nil, sent)
	if err != nil {
		return errNoDaemon(err)
	}
	if got.status != http.StatusOK {
		return errNoDaemon(fmt.Errorf("ask the daemon: %s answers %s", m.conf.Listen, got.complaint()))
	}
	if err := json.Unmarshal(got.body, into); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// Head reads HEAD.
func (m *memoryKeys) Head(ctx context.Context) (h fence.Head, found bool, err error) {
	var said api.StoreHead
	if err := m.ask(ctx, http.MethodGet, "/v1/store", nil, &said); err != nil {
		return h, false, err
	}
	m.said = said
	for field := range slices.Chunk(said.Head, 2) {
		if len(field) < 2 {
			break
		}
		if err := h.SetField(field[0], field[1]); err != nil {
			return h, false, err
		}
	}
	return h, h.Generation != "", nil
}

// Roster reads the roster's text.
func (m *memoryKeys) Roster(ctx context.Context) (text []byte, found bool, err error) {
	var said api.StoreRoster
	err = m.ask(ctx, http.MethodGet, "/v1/store/roster", nil, &said)
	return said.Roster, said.Roster != nil, err
}

// Walk visits the names of all keys. There are no others than those of the one namespace, so the pattern says nothing.
func (m *memoryKeys) Walk(ctx context.Context, _ string, visit func(names []string) error) error {
	for shard := range m.said.Shards {
		var names []string
		if err := m.ask(ctx, http.MethodGet, "/v1/store/names?shard="+strconv.Itoa(shard), nil, &names); err != nil {
			return err
		}
		if len(names) == 0 {
			continue
		}
		if err := visit(names); err != nil {
			return err
		}
	}
	return nil
}

// Read reads what keys hold, in the order of the names.
func (m *memoryKeys) Read(ctx context.Context, names []string) ([]store.Held, error) {
	held := make([]store.Held, 0, len(names))
	const together = 250
	for some := range slices.Chunk(names, together) {
		var said []api.StoreRecord
		if err := m.ask(ctx, http.MethodPost, "/v1/store/read", some, &said); err != nil {
			return nil, err
		}
		if len(said) != len(some) {
			return nil, fmt.Errorf("read the daemon's answer: %d records for %d names", len(said), len(some))
		}
		for _, r := range said {
			held = append(held, store.Held{Found: r.Found, Text: r.Text, TTL: time.Duration(r.TTL) * time.Microsecond})
		}
	}
	return held, nil
}

// ReadHashes is for keys that freshet does not keep. There are none here.
func (m *memoryKeys) ReadHashes(context.Context, []string) ([]store.Held, error) {
	return nil, errors.New("a daemon's own memory holds no hashes")
}

// served is an entry as the daemon serves it: in the roster that HEAD names.
func (m *memoryKeys) served(ctx context.Context, entry string) (h fence.Head, e *rule.Entry, err error) {
	h, found, err := m.Head(ctx)
	if err != nil || !found {
		return h, nil, err
	}
	text, found, err := m.Roster(ctx)
	if err != nil || !found {
		return h, nil, err
	}
	roster, err := rule.ParseRoster(text)
	if err != nil {
		return h, nil, err
	}
	return h, roster.Entries[entry], nil
}

// getFromDaemon is get where the store is in the daemon's memory: the gateway reads, and the record is looked at after it.
func (a *app) getFromDaemon(ctx context.Context, c *config.Config, entry string, texts, nulls []string, d *fill.Demand) error {
	m, err := openMemory(ctx, c)
	if err != nil {
		return err
	}
	h, served, err := m.served(ctx, entry)
	if err != nil {
		return err
	}
	if served == nil {
		return &exitError{code: exitFailure, err: fmt.Errorf("the daemon does not serve entry %s from its cache now", entry), try: "freshet status"}
	}
	args, err := arguments(served.Params, texts, nulls)
	if err != nil {
		return &exitError{code: exitUsage, err: err, try: usageOf("get", entry, served.Params)}
	}
	got, err := readGateway(ctx, c, entry, served.Params, args, d)
	if err != nil {
		return err
	}
	if served.Suspended == "" {
		template, err := rule.ParseTemplate(served.Key)
		if err != nil {
			return err
		}
		prefix := fence.LanePrefixes(m.said.Namespace, h.Generation, nil, rule.KeyTail(served))[0]
		got.Key = string(template.Append([]byte(prefix), args))
		held, err := m.Read(ctx, []string{got.Key})
		if err != nil {
			return err
		}
		if record, err := fence.ParseRecord(held[0].Text); held[0].Found && err == nil {
			got.Stamp = record.Coverage.String()
			got.describe(&record)
		}
	}
	return a.showGot(got)
}

// readGateway reads an entry over HTTP.
func readGateway(ctx context.Context, c *config.Config, entry string, params []rule.Param, args []keytext.Arg, d *fill.Demand) (*got, error) {
	query, header := url.Values{}, http.Header{}
	for i, p := range params {
		if !args[i].Null {
			query.Set(p.Name, args[i].Text)
		}
	}
	if len(d.After) > 0 {
		header.Set("Freshet-After", d.After[0].String())
	}
	switch {
	case d.Revalidate:
		header.Set("Cache-Control", "no-cache")
	case d.Bounded: // rounded down: never more than was asked for
		header.Set("Cache-Control", "max-age="+strconv.FormatInt(int64(d.MaxStale/time.Second), 10))
	}
	path := "/v1/entries/" + url.PathEscape(entry)
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	answer, err := requestDaemon(ctx, c, http.MethodGet, path, header, http.NoBody)
	if err != nil {
		return nil, errNoDaemon(err)
	}
	g := newGot(entry, args)
	g.Status = answer.header.Get("Freshet-Status")
	switch {
	case answer.status == http.StatusOK:
		g.Found, g.Value = true, json.RawMessage(bytes.TrimSpace(answer.body))
	case answer.status == http.StatusNotFound && strings.HasSuffix(answer.problem().Type, ":row-not-found"):
	case answer.status == http.StatusPreconditionFailed:
		return nil, &exitError{code: exitFailure, err: errors.New(answer.complaint()), try: "read again once its COMMIT has returned"}
	case answer.status == http.StatusBadRequest:
		return nil, &exitError{code: exitUsage, err: errors.New(answer.complaint())}
	default:
		return nil, fmt.Errorf("get %s: the daemon answers %s", entry, answer.complaint())
	}
	return g, nil
}

// checkMemory says what a store in the daemon's own memory means.
func (r *checked) checkMemory() {
	r.note("memory", fmt.Sprintf("the file has no regions: the store is in the memory of the daemon, which may take %s for it", r.conf.Memory.Size),
		"one process serves it, over HTTP or to the program that the daemon runs in; what is cached is gone when that ends, and the next one begins "+
			"a new generation. A second daemon waits as standby, and reads from the database until it takes over",
		"nothing while one process is enough; regions: [{name: local, redis: {url: redis://127.0.0.1:6379}}] lets many read, and survives a restart")
}
