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
