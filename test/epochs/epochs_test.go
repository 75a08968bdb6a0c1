package epochs

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

// history is writers and readers at work.
type history struct {
	*world

	writes, reads, hits, onTime, asked, together atomic.Int64

	troubled atomic.Bool // Redis has lost history: what HEAD vouched for before is not vouched for
}

// change is a write of one row, or of a row's place, and what every read that contains it shows: if it has the row, then with so high
// a number.
type change struct {
	row
	account int // whose path shows the row, 0 for none
}

// write makes a random change.
func (h *history) write(ctx context.Context, conn *pgx.Conn, random *rand.Rand) (c change, token mvcc.Token, err error) {
	account, team, region := 1+random.IntN(accounts), 1+random.IntN(teams), 1+random.IntN(regions)
	switch random.IntN(6) {
	case 0:
		c = change{row: row{T: "region", ID: region}}
		token, c.N, err = h.commit(ctx, conn, `UPDATE region SET n = n + 1 WHERE id = $1`, region)
	case 1, 2:
		c = change{row: row{T: "team", ID: team}}
		token, c.N, err = h.commit(ctx, conn, `UPDATE team SET n = n + 1 WHERE id = $1`, team)
	case 3: // the team goes to another region, the path of all its accounts with it
		c = change{row: row{T: "team", ID: team}}
		token, c.N, err = h.commit(ctx, conn, `UPDATE team SET n = n + 1, region_id = $2 WHERE id = $1`, team, region)
	case 4: // the account goes to another team
		c = change{row: row{T: "account", ID: account}, account: account}
		token, c.N, err = h.commit(ctx, conn, `UPDATE account SET n = n + 1, team_id = $2 WHERE id = $1`, account, team)
	default: // the team goes, and one with its number comes
		c = change{row: row{T: "team", ID: team}}
		token, c.N, err = h.commit(ctx, conn,
			`WITH gone AS (DELETE FROM team WHERE id = $1) UPDATE region SET n = n + 1 WHERE id = $2`, team, region)
		if err == nil {
			c = change{row: row{T: "region", ID: region, N: c.N}}
			_, err = conn.Exec(ctx, `INSERT INTO team SELECT $1, $2, (extract(epoch FROM clock_timestamp()) * 1000)::int8 ON CONFLICT DO NOTHING`, team, region)
		}
	}
	if err == nil {
		h.writes.Add(1)
	}
	return c, token, err
}

// look reads a random key, or one that shows the change.
func (h *history) look(ctx context.Context, random *rand.Rand, c change, d *fill.Demand) {
	entry, key := "path", args(1+random.IntN(accounts))
	switch {
	case c.account != 0 && random.IntN(2) == 0:
		key = args(c.account)
	case random.IntN(3) == 0:
		entry, key = "group", args(1+random.IntN(teams), random.IntN(3))
	case random.IntN(2) == 0:
		entry, key = "broad", args(random.IntN(3))
	}
	v, err := h.read(ctx, random, entry, key, d)
	if err != nil {
		if ctx.Err() == nil {
			h.t.Errorf("read %s %v: %v", entry, key, err)
		}
		return
	}
	h.reads.Add(1)
	if v.Status == fill.Hit {
		h.hits.Add(1)
	}
	rows, err := rowsOf(v)
	if err != nil {
		h.t.Errorf("read %s %v: %s: %v", entry, key, v.Payload, err)
	}
	for _, r := range rows {
		if r.T == c.T && r.ID == c.ID && r.N < c.N {
			h.t.Errorf("%s %v (%v, demand %+v) shows %+v, and contains what made it %d", entry, key, v.Status, d, r, c.N)
		}
	}
}

// read reads a key, every other time among others: what holds for a read of one holds for each of many.
func (h *history) read(ctx context.Context, random *rand.Rand, entry string, key []keytext.Arg, d *fill.Demand) (fill.Value, error) {
	r := h.readers[random.IntN(len(h.readers))]
	if random.IntN(2) == 0 {
		return r.GetUnder(ctx, entry, key, nil, d)
	}
	keys := [][]keytext.Arg{key}
	for range 1 + random.IntN(5) {
		other := slices.Clone(key)
		other[0] = args(1 + random.IntN(accounts))[0]
		keys = append(keys, other)
	}
	answers := r.GetMany(ctx, entry, keys, d)
	h.together.Add(int64(len(answers)))
	return answers[0].Value, answers[0].Err
}

// confirmed waits until the store says that everything up to a position is confirmed.
func (h *history) confirmed(ctx context.Context, position mvcc.LSN) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		if head, found, err := h.store.Head(ctx); err == nil && found && head.Wc >= position {
			return true
		}
		<-tick.C
	}
	return false
}

// work writes and reads until ctx ends: with the token, plainly once the store vouches for the change, and anything in between.
func (h *history) work(ctx context.Context, seed uint64) {
	conn, err := pgx.Connect(ctx, h.url)
	if err != nil {
		h.t.Error(err)
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	random := rand.New(rand.NewPCG(seed, 1))
	for ctx.Err() == nil {
		c, token, err := h.write(ctx, conn, random)
		switch {
		case ctx.Err() != nil:
			return
		case err == pgx.ErrNoRows: //nolint:errorlint // as QueryRow gives it: the row is away
			continue
		case err != nil:
			h.t.Errorf("write: %v", err)
			return
		}
		for range 3 {
			h.look(ctx, random, c, &fill.Demand{After: []mvcc.Token{token}})
		}
		for range 6 {
			h.look(ctx, random, change{}, &fill.Demand{})
		}
		if random.IntN(3) == 0 {
			h.look(ctx, random, c, &fill.Demand{Revalidate: true})
			h.asked.Add(1)
		}
		if random.IntN(4) == 0 && !h.troubled.Load() && h.confirmed(ctx, token.After) {
			for range 4 {
				if h.troubled.Load() {
					break
				}
				h.look(ctx, random, c, &fill.Demand{})
				h.onTime.Add(1)
			}
		}
	}
}

// lose deletes epochs and records at random, as eviction does.
func (h *history) lose(ctx context.Context, clients []rueidis.Client) {
	random := rand.New(rand.NewPCG(9, 9))
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		client := clients[random.IntN(len(clients))]
		name, err := client.Do(ctx, client.B().Randomkey().Build()).ToString()
		if err == nil && strings.HasPrefix(name, "f:"+h.namespace) && (strings.Contains(name, "~") || strings.Contains(name, ".")) {
			_ = client.Do(ctx, client.B().Del().Key(name).Build()).Error()
		}
	}
}

func TestHistoryOnAServer(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	h := &history{world: newWorld(t, redis.URL)}
	h.run([]*redistest.Server{redis}, func() { // another daemon takes over
		h.stop()
		h.follow()
	})
}

func TestHistoryOnACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, false)
	h := &history{world: newWorld(t, cluster.URL)}
	h.run(cluster.Masters, func() {
		h.stop()
		h.follow()
	})
}

// TestHistoryWithAFailover has a master of the cluster die, and its replica take its place without the last of what was confirmed
// and ended there: the lanes concerned are begun anew, the others go on.
func TestHistoryWithAFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, true)
	h := &history{world: newWorld(t, cluster.URL)}
	h.run(cluster.Masters[:1], func() {
		h.troubled.Store(true)
		cluster.Masters[1].ShutOut(t)
		h.wait(50) // what is ended now is lost
		cluster.Masters[1].Kill(t)
		cluster.FailOver(t, 1)
		testkit.Eventually(t, patience, func() error {
			if n := h.pipeline.Stats().Mended.Load(); n < 5 || h.pipeline.Stats().Closed.Load() != 0 {
				return fmt.Errorf("%d lanes were begun anew, %d are lost", n, h.pipeline.Stats().Closed.Load())
			}
			return nil
		})
	})
}

// wait waits for so many writes.
func (h *history) wait(n int64) {
	h.t.Helper()
	want := h.writes.Load() + n
	testkit.Eventually(h.t, patience, func() error {
		if now := h.writes.Load(); now < want {
			return fmt.Errorf("%d writes of %d", now, want)
		}
		return nil
	})
}

// run is two rounds of work, with trouble in the second one, and what is cached held against the database after each.
func (h *history) run(servers []*redistest.Server, trouble func()) {
	h.t.Helper()
	var clients []rueidis.Client
	for _, s := range servers {
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{s.Addr}, DisableCache: true, ForceSingleClient: true})
		if err != nil {
			h.t.Fatal(err)
		}
		h.t.Cleanup(client.Close)
		clients = append(clients, client)
	}
	var ended uint64
	for round := range 2 {
		ctx, cancel := context.WithCancel(h.t.Context())
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() { h.work(ctx, uint64(10*round+i)) })
		}
		all.Go(func() { h.lose(ctx, clients) })
		h.wait(100)
		if round > 0 {
			ended = h.pipeline.Stats().Ended.Load()
			trouble()
			h.wait(100)
		}
		cancel()
		all.Wait()
		h.settle()
	}
	ended += h.pipeline.Stats().Ended.Load()
	h.t.Logf("%d writes, %d reads, %d hits, %d after they were confirmed, %d compared; %d epochs ended; readers %+v",
		h.writes.Load(), h.reads.Load(), h.hits.Load(), h.onTime.Load(), h.asked.Load(), ended, h.readers[0].Stats())
	if h.hits.Load() < h.reads.Load()/20 || h.onTime.Load() < 20 || ended < 100 {
		h.t.Error("too little of it is hits, was read on time, or ended epochs: the history shows nothing")
	}
}

// settle holds everything that is cached against the database, once nobody writes.
func (h *history) settle() {
	h.t.Helper()
	report := h.verify()
	if total := report.Total; total.Violations != 0 || total.Undecided != 0 || total.Checked == 0 {
		h.t.Fatalf("verify: %+v\n%+v", total, report)
	}
	_, end, err := h.loader.Position(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	testkit.Eventually(h.t, patience, func() error {
		if head, _, err := h.store.Head(h.t.Context()); err != nil || head.Wc < end {
			return fmt.Errorf("HEAD is at %s of %s: %w", head.Wc, end, err)
		}
		return nil
	})
	hits := 0
	for _, e := range entries() {
		for a := range accounts {
			key := args(a, 1)[:len(e.Params)]
			v, err := h.readers[0].Get(h.t.Context(), e.Name, key, nil)
			if err != nil {
				h.t.Fatal(err)
			}
			truth, err := h.loader.Load(h.t.Context(), e.SQL, e.Result, key)
			if err != nil {
				h.t.Fatal(err)
			}
			if v.Status == fill.Hit {
				hits++
			}
			if !bytes.Equal(truth.Payload, v.Payload) {
				h.t.Errorf("%s %v: %v %s, the database has %s", e.Name, key, v.Status, v.Payload, truth.Payload)
			}
		}
	}
	if hits == 0 {
		h.t.Error("no hit among them")
	}
}

// TestVerifyKnowsEpochs: a value that differs is stale if its epochs hold, and nobody's if one of them has ended.
func TestVerifyKnowsEpochs(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	w := newWorld(t, redis.URL)
	v, err := w.readers[0].Get(t.Context(), "path", args(1), nil)
	if err != nil || v.Status != fill.Miss {
		t.Fatal(v, err)
	}
	plant := func(payload string) {
		t.Helper()
		record, err := w.store.Get(t.Context(), v.Name)
		if err != nil || len(record.Epochs) != 4 {
			t.Fatalf("%+v, %v", record, err)
		}
		record.Payload = []byte(payload)
		redis.Do(t, "SET", v.Name, string(record.Append(nil)), "KEEPTTL")
	}
	if total := w.verify().Total; total.Checked != 1 || total.Fresh != 1 {
		t.Errorf("as it was filled: %+v", total)
	}
	plant(`[]`)
	if total := w.verify().Total; total.Violations != 1 {
		t.Errorf("with another value: %+v", total)
	}
	base, _, _ := strings.Cut(v.Name, ":path:")
	redis.Do(t, "DEL", base+"~1")
	if total := w.verify().Total; total.Checked != 0 || total.Violations != 0 {
		t.Errorf("with an epoch that has ended: %+v", total)
	}
}
