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
