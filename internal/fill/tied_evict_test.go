package fill_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/redisstore"
)

// figure is a number that INFO says.
func (w *world) figure(section, name string) int64 {
	w.t.Helper()
	text, err := w.raw.Do(w.t.Context(), w.raw.B().Info().Section(section).Build()).ToString()
	if err != nil {
		w.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, name+":")
	rest, _, _ = strings.Cut(rest, "\r")
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		w.t.Fatalf("INFO %s has no %s: %v", section, name, err)
	}
	return n
}

func (w *world) configure(name, value string) {
	w.t.Helper()
	if err := w.raw.Do(w.t.Context(), w.raw.B().ConfigSet().ParameterValue().ParameterValue(name, value).Build()).Error(); err != nil {
		w.t.Fatal(err)
	}
}

// TestEpochsUnderEveryPolicy has a Redis that holds less than what is read, under each of its policies, evict epochs, values and
// HEAD, or refuse to store. Whatever is read after a change was confirmed shows it; and a full Redis is told of it all the same.
func TestEpochsUnderEveryPolicy(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{
		"noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl",
	} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			w := newTied(t, options{ownRedis: true})
			w.pg.Exec(t, w.url, `UPDATE team SET name = rpad('', 3000, md5(id::text))`,
				`INSERT INTO member SELECT 10 + u, 1 + (u * 7 + i * 31) % 40 FROM generate_series(0, 199) u, generate_series(0, 1) i`)
			full := strconv.FormatInt(w.figure("memory", "used_memory")+500<<10, 10)
			w.configure("maxmemory-policy", policy)
			w.configure("maxmemory", full)
			r, random := w.tiedReader(nil, nil), rand.New(rand.NewPCG(1, 2))
			hits, refused := 0, 0
			for round := range 25 {
				team := 1 + random.IntN(40)
				w.pg.Exec(t, w.url, fmt.Sprintf(`UPDATE team SET name = 'round %d' || rpad('', 3000, md5('%d')) WHERE id = %d`, round, round, team))
				if round == 12 {
					if err := w.raw.Do(t.Context(), w.raw.B().Flushall().Build()).Error(); err != nil {
						t.Fatal(err)
					}
				}
				if !w.ended(team) { // HEAD is gone
					// A beginning is several commands, and HEAD may be evicted between them: the daemon begins anew then.
					w.configure("maxmemory", "0")
					w.begin()
					w.tie(2)
					w.configure("maxmemory", full)
					r = w.tiedReader(nil, nil)
				}
				for range 60 {
					user := strconv.Itoa(10 + random.IntN(200))
					v := get(t, r, "teams", user)
					truth, err := w.loader.Load(t.Context(), w.roster.Entries["teams"].SQL, w.roster.Entries["teams"].Result, arg(user))
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(v.Payload, truth.Payload) {
						t.Fatalf("round %d: %v (%s): %s, the database has %s", round, v.Status, v.Reason, v.Payload, truth.Payload)
					}
					if v.Status == fill.Hit {
						hits++
					}
					if v.Reason == "store_full" || v.Reason == "store_error" {
						refused++
					}
				}
			}
			evicted := w.figure("stats", "evicted_keys")
			t.Logf("%d hits, %d evicted, %d refused", hits, evicted, refused)
			if hits == 0 || policy == "noeviction" && refused == 0 || policy != "noeviction" && evicted == 0 {
				t.Errorf("%d hits, %d evicted, %d refused: Redis was not full, or nothing was cached", hits, evicted, refused)
			}
		})
	}
}

// ended is end of a team's epoch; false when HEAD is not what the daemon expects.
func (w *withEpochs) ended(team int) bool {
	w.t.Helper()
	snapshot, lsn := w.gate()
	_, err := w.daemon.Apply(w.t.Context(), redisstore.Batch{
		Expect: w.expected(), Wi: lsn, Si: snapshot, Advance: lsn, Sa: snapshot,
		Epochs: []string{w.epoch("teams", "~1:"+strconv.Itoa(team)), w.epoch("teams", "~1+")},
	})
	if err == nil {
		w.head.Wc = lsn
	}
	return err == nil
}
