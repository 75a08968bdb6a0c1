package apply

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pggate"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/mvcc"
)

const patience = 20 * time.Second

// rig is an applier over a real store and a real gate. What the log would deliver, a test hands over by itself: so it says
// what is in a part, and when the applier takes its next step.
type rig struct {
	*Applier
	t         *testing.T
	url       string
	store     *redisstore.Store
	entry     *rule.Entry
	router    *route.Router
	relation  *change.Relation
	end       mvcc.LSN // of what was delivered
	confirmed mvcc.LSN // to the slot
}

func newRig(t *testing.T, pg *pgtest.Server, maxWaiting int) *rig {
	t.Helper()
	r := &rig{t: t, url: pg.Database(t)}
	namespace := redistest.Namespace(t)
	var err error
	if r.store, err = redisstore.Open(t.Context(), redisstore.Options{URL: redistest.Shared(t).URL, Namespace: namespace, Patience: patience}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.store.Close)
	conn, err := r.store.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	gate, err := pggate.Open(t.Context(), r.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = gate.Close(context.WithoutCancel(t.Context())) })
	snapshot, insert, err := gate.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	head := fence.Head{
		Generation: store.Draw(), Term: fence.NewTerm(1, 1), System: gate.Identity().SystemID, Timeline: 1, Publication: "p",
		Wi: insert, Wc: insert, Si: snapshot,
	}
	if _, _, err := conn.Claim(t.Context(), head.Term); err != nil {
		t.Fatal(err)
	}
	if err := conn.NewGeneration(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	if err := conn.DrawTick(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.entry = &rule.Entry{
		Name: "items", Version: "v", Activation: store.Draw(), Key: "i:{id}", Params: []rule.Param{{Name: "id", Type: keytext.String}},
		Rules: []rule.Rule{{Schema: "public", Table: "items", Bind: []string{"id"}}},
	}
	r.router, r.relation = route.New([]*rule.Entry{r.entry}), &change.Relation{
		OID: 1, Schema: "public", Name: "items", Identity: change.IdentityDefault,
		Columns: []change.Column{{Name: "id", TypeOID: 25, Key: true}},
	}
	roster := &rule.Roster{
		Format: rule.RosterFormat, Generation: head.Generation, Term: string(head.Term), Entries: map[string]*rule.Entry{"items": r.entry},
	}
	r.end = insert
	r.Applier = New(Options{
		Store: conn, Gate: gate, Queue: NewQueue(nil), Names: NewNames(namespace, roster, []*rule.Entry{r.entry}), Head: head,
		Confirm: func(p change.Position) { r.confirmed = mvcc.LSN(p) }, Logger: slog.New(slog.DiscardHandler), Stats: &Stats{},
		MaxWaiting: maxWaiting,
	})
	if err := r.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// open begins a transaction on the database, which no snapshot sees before commit is called: to the gate it is one that
// hangs in synchronous replication.
func (r *rig) open() (x mvcc.XID, commit func()) {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(r.t.Context())) })
	x = r.xid(conn, `BEGIN`)
	return x, func() {
		r.t.Helper()
		if _, err := conn.Exec(r.t.Context(), `COMMIT`); err != nil {
			r.t.Fatal(err)
		}
	}
}

// committed is a transaction that every later snapshot sees.
func (r *rig) committed() mvcc.XID {
	r.t.Helper()
	x, commit := r.open()
	commit()
	return x
}

func (r *rig) xid(conn *pgx.Conn, statement string) mvcc.XID {
	r.t.Helper()
	if _, err := conn.Exec(r.t.Context(), statement); err != nil {
		r.t.Fatal(err)
	}
	var text string
	if err := conn.QueryRow(r.t.Context(), `SELECT pg_current_xact_id()::text`).Scan(&text); err != nil {
		r.t.Fatal(err)
	}
	x, err := mvcc.ParseXID(text)
	if err != nil {
		r.t.Fatal(err)
	}
	return x
}

// deliver hands a transaction over that changed the rows with these ids, and returns where it ends. It may be called from a
// goroutine of its own.
func (r *rig) deliver(ctx context.Context, x mvcc.XID, ids ...string) (mvcc.LSN, error) {
	r.end += 100
	if err := r.opts.Queue.Begin(ctx, change.Begin{XID: x, End: r.end, Committed: time.Now()}); err != nil {
		return 0, err
	}
	for _, id := range ids {
		part, err := r.opts.Queue.Acquire(ctx)
		if err != nil {
			return 0, err
		}
		r.router.Row(insert(r.relation, id), part.Keys)
		r.opts.Queue.Release()
	}
	return r.end, r.opts.Queue.Commit(ctx, change.Commit{Position: change.Position(r.end)})
}

// part has the applier take a part with one transaction, without a step.
func (r *rig) part(x mvcc.XID, ids ...string) (end mvcc.LSN) {
	r.t.Helper()
	end, err := r.deliver(r.t.Context(), x, ids...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.takes()
	return end
}

// takes has the applier take what is in the queue, as one part.
func (r *rig) takes() {
	r.t.Helper()
	part, _ := r.opts.Queue.take()
	if part == nil {
		r.t.Fatal("there is nothing to take")
	}
	r.adopt(part)
}

// steps has it gate and send.
func (r *rig) steps() {
	r.t.Helper()
	if err := r.step(r.t.Context(), nil); err != nil {
		r.t.Fatal(err)
	}
}

// settled has it take no account of readers that may go on under names from before.
func (r *rig) settled() { r.settleAt = time.Time{} }

func (r *rig) name(id string) string { return r.opts.Names.prefix(0, []byte("i:"+id)) + "i:" + id }

// fills stores a value that contains what is visible now, and reports what came of it.
func (r *rig) fills(id string) fence.FillOutcome {
	r.t.Helper()
	snapshot, _, err := r.opts.Gate.Snapshot(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	token := r.leases(id)
	outcome, err := r.store.Fill(r.t.Context(), r.name(id), redisstore.FillRequest{
		Token: token, Coverage: fence.Coverage{Snapshot: snapshot}, State: fence.Live, Payload: []byte("{}"), TTL: time.Minute,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return outcome
}

func (r *rig) leases(id string) fence.Token {
	r.t.Helper()
	token := fence.Token(store.Draw() + store.Draw())
	if reply, err := r.store.Lease(r.t.Context(), r.name(id), token, time.Minute); err != nil || !reply.Granted {
		r.t.Fatalf("Lease(%s) = %+v, %v", id, reply, err)
	}
	return token
}

// cached has a value stored for each row.
func (r *rig) cached(ids ...string) {
	r.t.Helper()
	for _, id := range ids {
		if outcome := r.fills(id); outcome != fence.Filled {
			r.t.Fatalf("Fill(%s) = %v", id, outcome)
		}
	}
}

// record tells what is stored for a row: live, none, and the fences' transactions.
func (r *rig) record(id string) string {
	r.t.Helper()
	record, err := r.store.Get(r.t.Context(), r.name(id))
	if err != nil {
		r.t.Fatal(err)
	}
	words := []string{record.State.String()}
	for _, f := range record.Fences {
		words = append(words, "fence "+strconv.FormatUint(uint64(f.XID), 10))
	}
	return strings.Join(words, " ")
}

func (r *rig) stored() fence.Head {
	r.t.Helper()
	head, found, err := r.store.Head(r.t.Context())
	if err != nil || !found {
		r.t.Fatalf("Head() = %t, %v", found, err)
	}
	return head
}
