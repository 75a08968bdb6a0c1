package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/freshet/freshet"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pageTable has the large values, of 100 KiB.
const (
	pageTable = "pages"
	pageSize  = 100 << 10
)

// The entries over one row that differ in what a conditional read compares, and one that has it loaded instead.
const (
	loadedEntry   = "_loaded"
	digestEntry   = "_digest"
	rowsEntry     = "_rows"
	declaredEntry = "_declared"
)

// comparedEntries are the entries of this part, of a table.
func comparedEntries(of string) []string {
	return []string{of + loadedEntry, of + digestEntry, of + rowsEntry, of + declaredEntry}
}

// comparedConfiguration declares them.
func comparedConfiguration() string {
	var b strings.Builder
	for _, of := range []string{table, pageTable} {
		for _, name := range comparedEntries(of) {
			fmt.Fprintf(&b, "  %s:\n    key: %s:{id}\n    query: SELECT id, v, n FROM %s WHERE id = @id\n", name, name, of)
			switch {
			case strings.HasSuffix(name, loadedEntry):
				b.WriteString("    on_unproved: load\n")
			case strings.HasSuffix(name, declaredEntry):
				b.WriteString("    row_version: n\n")
			}
		}
	}
	return b.String()
}

// wire counts what comes over connections to the database.
type wire struct {
	net.Conn
	in *atomic.Int64
}

func (w wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.in.Add(int64(n))
	return n, err
}

// revalidate measures a conditional read that finds nothing changed against loading the value again, for a small value and for
// one of 100 KiB: time, and the bytes that the database and the store send and take for it.
func revalidate(ctx context.Context, b *bench) error {
	a, err := newApplication(ctx, b, "revalidate", comparedConfiguration())
	if err != nil {
		return err
	}
	defer a.close()
	err = b.servers.exec(ctx, a.url, fmt.Sprintf(`INSERT INTO %s SELECT g, (SELECT left(string_agg(md5(g || ' ' || i), ''), %d)
		FROM generate_series(1, %d) i), 0 FROM generate_series(1, %d) g`, pageTable, pageSize, pageSize/32+1, hitKeys), "VACUUM ANALYZE "+pageTable)
	if err != nil {
		return err
	}
	var in atomic.Int64
	config, err := pgxpool.ParseConfig(a.url)
	if err != nil {
		return err
	}
	var dialer net.Dialer
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr)
		return wire{conn, &in}, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	cache, err := freshet.Open(ctx, freshet.Options{Config: a.file, Database: pool})
	if err != nil {
		return err
	}
	defer cache.Close()
	for size, of := range map[string]string{"small": table, "large": pageTable} {
		if err := a.compared(ctx, cache, size, of, &in); err != nil {
			return fmt.Errorf("%s: %w", size, err)
		}
	}
	return nil
}

// compared measures the entries of one table: a load that is stored nowhere, a load that is stored over what is cached, and
// conditional reads.
func (a *application) compared(ctx context.Context, cache *freshet.Cache, size, of string, in *atomic.Int64) error {
	var readers []*reader
	for _, way := range []struct {
		name, entry string
		option      freshet.ReadOption
	}{
		{"load", digestEntry, freshet.Bypass()},
		{"stored", loadedEntry, freshet.MaxStale(0)}, // nothing proves so much of what is cached, and the entry has it loaded
		{"digest", digestEntry, freshet.Revalidate()},
		{"rows", rowsEntry, freshet.Revalidate()},
		{"declared", declaredEntry, freshet.Revalidate()},
	} {
		entry, err := freshet.Entry[int, json.RawMessage](cache, of+way.entry)
		if err != nil {
			return err
		}
		r := &reader{name: way.name, read: func(ctx context.Context, id int) error {
			_, err := entry.Get(ctx, id, way.option)
			return err
		}}
		for id := 1; id <= hitKeys; id++ {
			for range 2 { // the first fills, the second learns the row versions
				if err := r.read(ctx, id); err != nil {
					return err
				}
			}
		}
		readers = append(readers, r)
	}
	if err := a.b.race(ctx, strings.ReplaceAll(size, " ", "-"), readers, 1); err != nil {
		return err
	}
	load, stored := median(readers[0].took), median(readers[1].took)
	var full float64
	for i, r := range readers {
		database, store, err := a.moved(ctx, r, in)
		if err != nil {
			return err
		}
		took := median(r.took)
		a.b.printf("  %s, %s: %.3f ms, %.0f bytes from the database, %.0f to and from the store\n", size, r.name, took/1e6, database, store)
		if i == 0 {
			full = database
			continue
		}
		figure := "revalidate/" + size + "/" + r.name
		a.b.report(figure+"/time", took/load, "times a load")
		a.b.report(figure+"/bytes", database/full, "times a load's, from the database")
		if i > 1 {
			a.b.report(figure+"/stored", took/stored, "times a load that is stored")
		}
	}
	return nil
}

// moved counts the bytes that one read of a way moves.
func (a *application) moved(ctx context.Context, r *reader, in *atomic.Int64) (database, store float64, err error) {
	from, err := a.storeBytes(ctx)
	if err != nil {
		return 0, 0, err
	}
	before := in.Load()
	for id := 1; id <= hitKeys; id++ {
		if err := r.read(ctx, id); err != nil {
			return 0, 0, err
		}
	}
	to, err := a.storeBytes(ctx)
	return float64(in.Load()-before) / hitKeys, float64(to-from) / hitKeys, err
}

// storeBytes is what the store has taken and sent since it began.
func (a *application) storeBytes(ctx context.Context) (int64, error) {
	text, err := a.client.Do(ctx, a.client.B().Info().Section("stats").Build()).ToString()
	if err != nil {
		return 0, err
	}
	var total int64
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "total_net_input_bytes" || name == "total_net_output_bytes" {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return total, nil
}
