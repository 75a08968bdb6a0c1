package stampede

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

const (
	patience  = 30 * time.Second
	processes = 4
	// leaseMargin is how much longer than a load a lease lasts (internal/fill).
	leaseMargin = 500 * time.Millisecond
)

// shop is a table with an entry that code loads, and a daemon.
type shop struct {
	t         *testing.T
	url       string
	namespace string
	slot      string
}

func newShop(t *testing.T) *shop {
	t.Helper()
	pg := pgtest.Shared(t)
	s := &shop{t: t, url: pg.Database(t), namespace: redistest.Namespace(t), slot: fmt.Sprintf("s_%d", time.Now().UnixNano())}
	pg.Exec(t, s.url, `CREATE TABLE products (id int PRIMARY KEY, price int NOT NULL)`,
		`INSERT INTO products SELECT g, 10 * g FROM generate_series(1, 100) g`)
	daemon := servetest.Start(t, "daemon", s.file(2*time.Second))
	testkit.Eventually(t, patience, func() error { return daemon.Live(t.Context()) })
	return s
}

// file writes the configuration of a process whose loads may take so long, which is how long its leases last as well.
func (s *shop) file(loadTimeout time.Duration) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "freshet.yaml")
	text := fmt.Sprintf(`namespace: %s
database: {url: %q}
source: {postgres: {slot: %q}}
regions: [{name: local, redis: {url: %q}}]
listen: 127.0.0.1:0
entries:
  product:
    key: product:{id}
    load_timeout: %s
    depends_on:
      - {table: products, key: "{id}"}
`, s.namespace, s.url, s.slot, redistest.Shared(s.t).URL, loadTimeout)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

type fleet []*process

func muster(t *testing.T, j *job) (all fleet) {
	t.Helper()
	for range processes {
		all = append(all, begin(t, j))
	}
	return all
}

// storm has all processes read at once, and sums up what they report.
func (all fleet) storm() (sum report) {
	for _, p := range all {
		p.tell()
	}
	for _, p := range all {
		r := p.report()
		sum.Loads, sum.Past, sum.Longest = sum.Loads+r.Loads, sum.Past+r.Past, max(sum.Longest, r.Longest)
	}
	return sum
}

// TestOneLoadOfAKeyInTheFleet: four processes with 200 goroutines each want the same keys, of which none is cached: each is loaded once.
// A process that a busy machine holds up for longer than a second vouches for no names, and reads past the cache meanwhile, which
// are loads of their own: such a storm shows that there are no others, and is followed by another one.
func TestOneLoadOfAKeyInTheFleet(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	const each, storms = 20, 4
	for storm := range storms {
		var keys []int
		for i := range each {
			keys = append(keys, warmKey+1+storm*each+i)
		}
		sum := muster(t, &job{Config: s.file(time.Minute), Goroutines: 200, Keys: keys, Load: 10 * time.Millisecond}).storm()
		t.Logf("%d loads of %d keys, %d reads past the cache; the longest read took %s", sum.Loads, each, sum.Past, sum.Longest)
		if sum.Loads < each || sum.Loads > each+int64(sum.Past) {
			t.Errorf("%d loads of %d keys by %d processes with 200 goroutines each", sum.Loads, each, processes)
		}
		if sum.Past == 0 || t.Failed() {
			return
		}
	}
	t.Errorf("in each of %d storms processes were held up", storms)
}

// TestLoaderIsKilled: the lease of a process that is killed while it loads passes on within its term, to one of the fleet; who may not
// wait for so long has the value from the database, once in each process, and the key is cached again after the term.
func TestLoaderIsKilled(t *testing.T) {
	t.Parallel()
	const term = 2*time.Second + leaseMargin
	for _, tt := range []struct {
		name        string
		loadTimeout time.Duration // of those who live
		loads       int64         // at most
		longest     time.Duration // without what a busy machine adds
		load        time.Duration
	}{
		{"waited for", time.Minute, 1, term, 10 * time.Millisecond},
		// A process loads once for all whose patience ends during that load: on a busy machine not all ends within some milliseconds.
		{"not waited for", 2 * time.Second, processes, time.Second, 500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			living := muster(t, &job{Config: s.file(tt.loadTimeout), Goroutines: 50, Keys: []int{2}, Load: tt.load})
			killed := begin(t, &job{Config: s.file(2 * time.Second), Goroutines: 1, Keys: []int{2}, Hangs: true})
			killed.tell()
			if said := killed.hear(); said != loading {
				t.Fatalf("it says %q", said)
			}
			if err := killed.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			died := time.Now()
			sum := living.storm()
			t.Logf("%d loads; the longest read took %s", sum.Loads, sum.Longest)
			if sum.Loads < 1 || sum.Loads > tt.loads || sum.Longest < tt.longest/2 || sum.Longest > tt.longest+10*time.Second {
				t.Errorf("%d loads, and the longest read took %s; want %d at most, and about %s", sum.Loads, sum.Longest, tt.loads, tt.longest)
			}
			s.hits(2)
			if took := time.Since(died); took > term+patience/2 {
				t.Errorf("it was cached %s after the loader had died", took)
			}
		})
	}
}

// hits waits until a key is a hit.
func (s *shop) hits(id int) {
	s.t.Helper()
	cache, err := freshet.Open(s.t.Context(), freshet.Options{Config: s.file(time.Minute)})
	if err != nil {
		s.t.Fatal(err)
	}
	defer cache.Close()
	products, err := freshet.Entry(cache, "product", freshet.Load(func(context.Context, freshet.Querier, int) (int, error) { return price(id), nil }))
	if err != nil {
		s.t.Fatal(err)
	}
	testkit.Eventually(s.t, patience, func() error {
		before := cache.Stats().Hits
		got, err := products.Get(s.t.Context(), id)
		if err == nil && (got != price(id) || cache.Stats().Hits == before) {
			err = errors.New("no hit")
		}
		return err
	})
}
