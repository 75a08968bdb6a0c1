package freshettest_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshettest"
	"github.com/freshet/freshet/internal/testkit"
)

// failures counts what a World's assertions say, in the stead of a test that would fail.
type failures struct {
	testing.TB
	count int
}

func (f *failures) Errorf(string, ...any) { f.count++ }

// TestAssertionsFail of what they are there to find.
func TestAssertionsFail(t *testing.T) {
	t.Parallel()
	judged := &failures{TB: t}
	w := freshettest.New(judged, freshettest.Options{Config: "testdata/freshet.yaml"})
	products, err := freshet.Entry[int64, Product](w.Cache, "product")
	if err != nil {
		t.Fatal(err)
	}
	now, before := Product{ID: 1, Price: 2}, Product{ID: 1, Price: 1}
	w.Set("product", now, 1)
	get(t, products, 1)
	missing := func(id int64) func() { return func() { _, _ = products.Get(t.Context(), id) } }
	hit := func() { get(t, products, 1) }
	for name, fail := range map[string]func(){
		"Hit of a miss":             func() { w.Hit(missing(2)) },
		"Hit of a hit and a miss":   func() { w.Hit(func() { hit(); missing(3)() }) },
		"Hit of a hit and a bypass": func() { w.Hit(func() { hit(); get(t, products, 1, freshet.Bypass()) }) },
		"Hit of nothing":            func() { w.Hit(func() {}) },
		"Miss of a hit":             func() { w.Miss(hit) },
		"Miss of a miss and a hit":  func() { w.Miss(func() { missing(4)(); hit() }) },
		"Miss of nothing":           func() { w.Miss(func() {}) },
		"Fresh of what was":         func() { w.Fresh("product", before, 1) },
		"Fresh where there is none": func() { w.Fresh("product", before, 9) },
		"Stale of what is":          func() { w.Stale("product", now, 1) },
	} {
		count := judged.count
		fail()
		if judged.count != count+1 {
			t.Errorf("%s: %d failures", name, judged.count-count)
		}
	}
}

// TestStaleReads: a value that has changed, and that its entry serves for a while, is counted as that, and passes neither for a hit nor for one
// that was loaded, although it is loaded beside the read.
func TestStaleReads(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	text := `database: {url: "${DATABASE_URL}"}
source: {postgres: {}}
entries:
  product:
    key: product:{id}
    query: SELECT id, name, price FROM products WHERE id = @id
    on_change: {serve_stale: {for: 1m}}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	judged := &failures{TB: t}
	w := freshettest.New(judged, freshettest.Options{Config: file})
	products, err := freshet.Entry[int64, Product](w.Cache, "product")
	if err != nil {
		t.Fatal(err)
	}
	changed := func() {
		t.Helper()
		w.Set("product", Product{ID: 1, Price: 1}, 1)
		get(t, products, 1, freshet.Revalidate())
		w.Set("product", Product{ID: 1, Price: 2}, 1)
	}
	read := func() { // what was, and waits for the load beside it
		before := w.Cache.Stats().Loads
		w.Stale("product", get(t, products, 1), 1)
		testkit.Eventually(t, 10*time.Second, func() error {
			if w.Cache.Stats().Loads == before {
				return errors.New("nothing is loaded")
			}
			return nil
		})
	}
	changed()
	if r := w.Reads(read); r.Stale != 1 || r.Hits != 0 || r.Misses != 1 {
		t.Errorf("a stale read is %+v", r)
	}
	if judged.count != 0 {
		t.Fatalf("%d assertions failed", judged.count)
	}
	for name, assert := range map[string]func(func()){"Hit": w.Hit, "Miss": w.Miss} {
		changed()
		before := judged.count
		assert(read)
		if judged.count == before {
			t.Errorf("%s did not fail of a stale read", name)
		}
	}
}

// TestReadsBesideARefresh: a value that is loaded again beside a read that hits it, since its time is nearly over, is a hit.
func TestReadsBesideARefresh(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	text := `database: {url: "${DATABASE_URL}"}
source: {postgres: {}}
entries:
  product:
    key: product:{id}
    query: SELECT id, name, price FROM products WHERE id = @id
    ttl: 20s
    ttl_jitter: 0%
    eager_refresh: 90%
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	judged := &failures{TB: t}
	w := freshettest.New(judged, freshettest.Options{Config: file})
	products, err := freshet.Entry[int64, Product](w.Cache, "product")
	if err != nil {
		t.Fatal(err)
	}
	w.Set("product", Product{ID: 1, Price: 1}, 1)
	w.Miss(func() { get(t, products, 1) })
	refreshed := func() bool { s := w.Cache.Stats(); return s.EagerStored > 0 && s.Loads > 1 }
	hits := func() { // until one of them has had it loaded again
		testkit.Eventually(t, 10*time.Second, func() error {
			get(t, products, 1)
			if !refreshed() {
				return errors.New("it is not refreshed")
			}
			return nil
		})
	}
	w.Hit(func() {
		if r := w.Reads(hits); r.Ahead != 1 || r.Hits == 0 || r.Misses != 0 || r.Loads != 1 {
			t.Errorf("reads beside a refresh are %+v", r)
		}
	})
	if judged.count != 0 {
		t.Fatalf("%d assertions failed", judged.count)
	}
}
