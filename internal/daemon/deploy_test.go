package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/testkit"
)

const (
	oldFile = "defaults: {ttl: 2s, negative_ttl: 1s}\nentries:\n" +
		"  product: {key: \"product:{id}\", query: \"SELECT id, name, price FROM products WHERE id = @id\"}\n"
	newQuery = "SELECT id, name FROM products WHERE id = @id"
)

var newFile = strings.Replace(oldFile, "SELECT id, name, price FROM products WHERE id = @id", newQuery, 1)

// library is an application's process with a file of its own.
type library struct {
	t        *testing.T
	name     string
	cache    *freshet.Cache
	products *freshet.Typed[int64, json.RawMessage]

	mu  sync.Mutex
	log bytes.Buffer
}

func (l *library) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

func (l *library) said(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.log.String(), text)
}

func (w *world) library(name, file string) *library {
	w.t.Helper()
	l := &library{t: w.t, name: name}
	var err error
	l.cache, err = freshet.Open(w.t.Context(), freshet.Options{Config: file, Logger: slog.New(slog.NewTextHandler(l, nil))})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(l.cache.Close)
	if l.products, err = freshet.Entry[int64, json.RawMessage](l.cache, "product"); err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (l *library) read() (string, error) {
	v, err := l.products.Get(l.t.Context(), 1)
	return string(v), err
}

// hits waits until the library reads want from the cache.
func (l *library) hits(want string) {
	l.t.Helper()
	testkit.Eventually(l.t, patience, func() error {
		before := l.cache.Stats()
		got, err := l.read()
		if after := l.cache.Stats(); err == nil && (got != want || after.Hits == before.Hits) {
			err = fmt.Errorf("library %s reads %s, want a hit with %s; %+v", l.name, got, want, after)
		}
		return err
	})
}

// passes waits until the library reads want from the database for that reason, and holds that it fills nothing then.
func (l *library) passes(reason, want string) {
	l.t.Helper()
	testkit.Eventually(l.t, patience, func() error {
		before := l.cache.Stats()
		got, err := l.read()
		after := l.cache.Stats()
		if err == nil && (got != want || after.Bypassed[reason] == before.Bypassed[reason] || after.Fills != before.Fills) {
			err = fmt.Errorf("library %s reads %s, want %s past the cache (%s); %+v", l.name, got, want, reason, after)
		}
		return err
	})
}

// versions waits until the daemon serves so many versions.
func (w *world) versions(count int) []daemonEntry {
	w.t.Helper()
	var st struct {
		Entries []daemonEntry `json:"entries"`
	}
	w.until("/v1/status", func(a answer) bool {
		st.Entries = nil
		return json.Unmarshal([]byte(a.body), &st) == nil && len(st.Entries) == count
	})
	return st.Entries
}

type daemonEntry struct {
	Definition string `json:"definition"`
	Retained   string `json:"retained"`
	UsedBy     string `json:"used_by"`
}

// TestRollingDeploy deploys a changed query: libraries of both files side by side, the daemon before and after them.
func TestRollingDeploy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.unused = time.Millisecond
	w.configure(oldFile)
	before := w.file
	w.rewrite(newFile)
	after := w.file
	w.file = before
	oldRow, newRow := `{"id":1,"name":"%s","price":1}`, `{"id":1,"name":"%s"}`

	// No daemon ever ran.
	older, newer := w.library("old", before), w.library("new", after)
	older.passes("no_head", fmt.Sprintf(oldRow, "product 1"))
	if !older.said("no daemon vouches for the cache") {
		t.Error("a library without a daemon does not say so")
	}

	// Libraries are deployed before the daemon: it does not know the new ones.
	run := w.start()
	w.ready()
	older.hits(fmt.Sprintf(oldRow, "product 1"))
	newer.passes("unknown_definition", fmt.Sprintf(newRow, "product 1"))
	if !newer.said("the daemon does not serve the entry as it is declared here") {
		t.Error("a library that the daemon does not know does not say so")
	}

	// Now the daemon. Both have a cache, and a change makes both fresh.
	deploy := func(file string) {
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
		w.file = file
		run = w.start()
		w.ready()
	}
	deploy(after)
	older.hits(fmt.Sprintf(oldRow, "product 1"))
	newer.hits(fmt.Sprintf(newRow, "product 1"))
	w.pg.Exec(t, w.url, `UPDATE products SET name = 'kettle' WHERE id = 1`)
	older.hits(fmt.Sprintf(oldRow, "kettle"))
	newer.hits(fmt.Sprintf(newRow, "kettle"))

	// The old version is served because the library registers it.
	w.until("/v1/status", func(a answer) bool {
		older.hits(fmt.Sprintf(oldRow, "kettle"))
		return strings.Contains(a.body, `"used_by":"`)
	})
	entries := w.versions(2)
	if entries[0].Retained != "" || entries[1].Retained == "" || !strings.Contains(entries[1].UsedBy, ", process ") {
		t.Errorf("the versions are %+v", entries)
	}

	// The last old library ends, its registration runs out, and then what it has cached.
	older.cache.Close()
	w.unregister(entries[1].Definition)
	if left := w.versions(1); left[0].Definition != entries[0].Definition {
		t.Errorf("left is %+v", left)
	}
	newer.hits(fmt.Sprintf(newRow, "kettle"))
	// One that comes late is told, until a daemon with its file is deployed; the other's is then the one that is retained.
	late := w.library("late", before)
	late.passes("unknown_definition", fmt.Sprintf(oldRow, "kettle"))
	deploy(before)
	late.hits(fmt.Sprintf(oldRow, "kettle"))
	newer.hits(fmt.Sprintf(newRow, "kettle"))
	w.pg.Exec(t, w.url, `UPDATE products SET name = 'pot' WHERE id = 1`)
	late.hits(fmt.Sprintf(oldRow, "pot"))
	newer.hits(fmt.Sprintf(newRow, "pot"))
}

// TestSchemaLeavesAnEarlierVersionBehind: a retained version whose query the schema does not allow any more goes, and
// nothing else does.
func TestSchemaLeavesAnEarlierVersionBehind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(oldFile)
	before := w.file
	run := w.start()
	w.ready()
	older := w.library("old", before)
	older.hits(`{"id":1,"name":"product 1","price":1}`)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	w.rewrite(newFile)
	newer := w.library("new", w.file)
	c, err := config.Load(w.file, os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	log := &library{t: t}
	w.serve(daemon.Options{Config: c, Logger: slog.New(slog.NewTextHandler(log, nil))})
	w.ready()
	older.hits(`{"id":1,"name":"product 1","price":1}`)
	newer.hits(`{"id":1,"name":"product 1"}`)
	w.pg.Exec(t, w.url, `ALTER TABLE products DROP COLUMN price`)
	w.versions(1)
	if !log.said("an earlier version of an entry is given up: its query cannot be planned any more") {
		t.Error("the daemon does not say so")
	}
	newer.hits(`{"id":1,"name":"product 1"}`)
	testkit.Eventually(t, patience, func() error {
		if !older.said("the daemon does not serve the entry as it is declared here") {
			_, _ = older.read() // fails: the column is gone
			return errors.New("the library was not told")
		}
		return nil
	})
}

// TestDeployKeepsWhatDependsOnNothing: an earlier version of an entry that code loads and that no table affects is served like any other, for as
// long as a library uses it, whether the new file declares the entry otherwise or not at all; and its writers' word still reaches it.
func TestDeployKeepsWhatDependsOnNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.configure(oldFile + "  rate: {key: \"rate:{currency}\", depends_on: [], ttl: 1m}\n")
	before := w.file
	run := w.start()
	w.ready()
	older := w.library("old", before)
	value := "old"
	rates, err := freshet.Entry(older.cache, "rate", freshet.Load(func(context.Context, freshet.Querier, string) (string, error) { return value, nil }))
	if err != nil {
		t.Fatal(err)
	}
	hits := func(want string) {
		t.Helper()
		testkit.Eventually(t, patience, func() error {
			was := older.cache.Stats()
			got, err := rates.Get(t.Context(), "EUR")
			if is := older.cache.Stats(); err == nil && (got != want || is.Hits == was.Hits) {
				err = fmt.Errorf("rate = %s, want a hit with %s; %+v", got, want, is)
			}
			return err
		})
	}
	hits("old")
	for i, file := range []string{oldFile + "  rate: {key: \"rates:{currency}\", depends_on: []}\n", oldFile} {
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
		w.rewrite(file)
		c, err := config.Load(w.file, os.LookupEnv)
		if err != nil {
			t.Fatal(err)
		}
		log := &library{t: t}
		run = w.serve(daemon.Options{Config: c, Logger: slog.New(slog.NewTextHandler(log, nil))})
		w.ready()
		hits(value)
		value = fmt.Sprintf("new %d", i)
		if _, err := older.cache.Invalidate(t.Context(), rates.Key("EUR")); err != nil {
			t.Fatal(err)
		}
		hits(value)
		if log.said("given up") {
			t.Errorf("file %d: the daemon gives the earlier version up: %s", i, log.log.String())
		}
	}
}

func (w *world) unregister(definition string) {
	w.t.Helper()
	c, err := config.Load(w.file, os.LookupEnv)
	if err != nil {
		w.t.Fatal(err)
	}
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{w.redis.Addr}, DisableCache: true})
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	key := "f:" + c.Namespace + ":use:product." + definition
	if n, err := client.Do(w.t.Context(), client.B().Del().Key(key).Build()).AsInt64(); err != nil || n != 1 {
		w.t.Fatalf("DEL %s = %d, %v", key, n, err)
	}
}
