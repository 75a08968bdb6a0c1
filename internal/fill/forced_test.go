package fill_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// standbyLoader loads from a standby.
type standbyLoader struct {
	fill.Loader
	replica *pgload.Replica
}

func (l *standbyLoader) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	return l.replica.Load(ctx, sql, result, args)
}

// committed runs a statement in a transaction and returns what the log says of it.
func (w *world) committed(statement string) fence.Stamp {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(w.t.Context(), "BEGIN; "+statement); err != nil {
		w.t.Fatal(err)
	}
	stamp := fence.Stamp{XID: xid(w.t, conn)}
	if _, err := conn.Exec(w.t.Context(), "COMMIT"); err != nil {
		w.t.Fatal(err)
	}
	_, stamp.End = w.gate()
	return stamp
}

// TestFencesGoWithAFill is T9: a fill that covers the fences takes them along. When its value is lost, a standby that lags
// may store the old row again, which only the confirm removes; from then on the floor refuses it.
func TestFencesGoWithAFill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true})
	standby := pgtest.Standby(t, w.pg, pgtest.Options{})
	replica, err := pgload.OpenReplica(t.Context(), standby.URL(w.pg.Ask(t, w.url, "SELECT current_database()::text")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replica.Close)
	near, far := w.reader(nil, nil), w.reader(nil, &standbyLoader{Loader: w.loader, replica: replica})
	standby.Pause(t)
	x := w.committed("UPDATE product SET price = 11 WHERE id = 1")
	name := w.name("product", "1")
	w.early(name, x)
	read(t, near, 1, fill.Miss, price(1, 11))
	if record, _ := w.record(name); record.State != fence.Live || len(record.Fences) != 0 {
		t.Errorf("the record is %+v", record)
	}
	if err := w.raw.Do(t.Context(), w.raw.B().Del().Key(name).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	read(t, far, 1, fill.Miss, price(1, 10))
	read(t, near, 1, fill.Hit, price(1, 10)) // old, and so it would stay
	snapshot, end := w.gate()
	if _, err := w.daemon.Apply(t.Context(), redisstore.Batch{
		Expect: w.expected(), Wi: end, Si: snapshot, Advance: end, Keys: []redisstore.Stamped{{Name: name, Stamps: []fence.Stamp{x}}},
	}); err != nil {
		t.Fatal(err)
	}
	w.head.Wc = end
	if v := read(t, far, 1, fill.Miss, price(1, 10)); v.Reason != "below_floor" {
		t.Errorf("after the confirm the standby's load met %q", v.Reason)
	}
	read(t, near, 1, fill.Miss, price(1, 11))
	standby.Resume(t)
}

// TestConfirmFencesALeaseThatHasEnded is T34: a confirm by script finds a lease that has ended, and Redis' clock steps back
// behind its end. What was loaded under it must be refused by the fence all the same.
func TestConfirmFencesALeaseThatHasEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	name, token := w.name("product", "1"), fence.Token("0123456789abcdef0123456789abcdef")
	reply, err := w.store.Lease(t.Context(), name, token, time.Millisecond)
	if err != nil || !reply.Granted {
		t.Fatalf("Lease() = %+v, %v", reply, err)
	}
	loaded, err := w.loader.Load(t.Context(), w.roster.Entries["product"].SQL, w.roster.Entries["product"].Result, arg("1"))
	if err != nil || string(loaded.Payload) != price(1, 10) {
		t.Fatalf("Load() = %s, %v", loaded.Payload, err)
	}
	leased, _ := w.record(name)
	eventually(t, func() error {
		now, err := w.raw.Do(t.Context(), w.raw.B().Time().Build()).AsStrSlice()
		if err != nil {
			return err
		}
		seconds, _ := strconv.ParseInt(now[0], 10, 64)
		micros, _ := strconv.ParseInt(now[1], 10, 64)
		if leased.Lease.LiveAt(1_000_000*seconds + micros) {
			return errors.New("the lease has not ended")
		}
		return nil
	})
	x := w.committed("UPDATE product SET price = 11 WHERE id = 1")
	snapshot, end := w.gate()
	if _, err := w.daemon.Apply(t.Context(), redisstore.Batch{
		Expect: w.expected(), Wi: end, Si: snapshot, Advance: end,
		Keys: []redisstore.Stamped{{Name: name, Stamps: []fence.Stamp{x}}},
	}); err != nil {
		t.Fatal(err)
	}
	fenced, _ := w.record(name)
	unfenced := fenced
	unfenced.Fences = nil
	for _, tt := range []struct {
		record fence.Record
		want   fence.FillOutcome
	}{{fenced, fence.NotCovering}, {unfenced, fence.Filled}} {
		tt.record.Lease.End += time.Hour.Microseconds() // as far as the clock steps back
		w.put(name, tt.record.Append(nil))
		got, err := w.store.Fill(t.Context(), name, redisstore.FillRequest{
			Token: token, Coverage: loaded.Coverage, State: fence.Live, Payload: loaded.Payload, TTL: time.Minute,
		})
		if err != nil || got != tt.want {
			t.Errorf("Fill() over fences %v = %v, %v, want %v", tt.record.Fences, got, err, tt.want)
		}
	}
}

// floorIsWc is the store without Wi: what a standby has to have replayed is what HEAD says is confirmed.
type floorIsWc struct{ fill.Store }

func (s floorIsWc) Lease(ctx context.Context, name string, token fence.Token, lasts time.Duration) (redisstore.LeaseReply, error) {
	reply, err := s.Store.Lease(ctx, name, token, lasts)
	reply.Head.Wi = reply.Head.Wc
	return reply, err
}

// TestLoadBetweenConfirmAndAdvance is T17: a key is loaded from a standby that lags, after its confirm and before ADVANCE. What
// keeps the old row out is the floor Wi, which an INTENT has raised before the confirm. Without either it is stored, and HEAD
// then vouches for it.
func TestLoadBetweenConfirmAndAdvance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		without    func(fill.Store) fill.Store
		intentLast bool
		served     int
	}{
		{"as it is", nil, false, 11},
		{"the floor is Wc", func(s fill.Store) fill.Store { return floorIsWc{s} }, false, 10},
		{"INTENT after the confirm", nil, true, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newStandby(t)
			if tt.without != nil {
				w.r = w.readerWith(tt.without(w.store), w.replica)
			}
			w.stored(1, 10)
			w.standby.CatchUp(t)
			w.standby.Pause(t)
			w.reprice()
			snapshot, lsn := w.gate()
			name := w.name("product", "1")
			apply := func(b redisstore.Batch) {
				t.Helper()
				b.Expect, b.Wi, b.Si = w.expected(), lsn, snapshot
				if _, err := w.daemon.Apply(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			if tt.intentLast {
				if err := w.raw.Do(t.Context(), w.raw.B().Unlink().Key(name).Build()).Error(); err != nil {
					t.Fatal(err)
				}
			} else {
				apply(redisstore.Batch{Names: []string{name}})
			}
			w.stored(1, tt.served)
			apply(redisstore.Batch{Advance: lsn, Sa: snapshot})
			if head, _, err := w.store.Head(t.Context()); err != nil || head.Wc < lsn {
				t.Fatalf("HEAD is %+v, %v: it does not vouch for anything", head, err)
			}
			read(t, w.r, 1, fill.Hit, price(1, tt.served))
		})
	}
}
