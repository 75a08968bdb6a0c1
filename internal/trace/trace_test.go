package trace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/memstore"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/trail"
	"github.com/freshet/freshet/mvcc"
)

const (
	activation = "f:shop:9f1c66d2a0b34e57:product.0123456789abcdef.fedcba9876543210"
	older      = "f:shop:9f1c66d2a0b34e57:product.0123456789abcdef.fedcba9876543211"
	record     = activation + ":product:7"
)

func at() Where {
	return Where{Entry: "product", Args: []keytext.Arg{{Text: "7"}}, Key: "product:7", Name: record, Epochs: activation}
}

func lines(h *History) (all []string) {
	for i := range h.Events {
		all = append(all, fmt.Sprintf("%s %s", h.Events[i].Kind, h.Events[i].Why))
	}
	return all
}

// filled stores a value that is tied to an epoch.
func filled(t *testing.T, s *memstore.Store) {
	t.Helper()
	ctx, token := t.Context(), fence.Token(strings.Repeat("a", 32))
	pinned, err := s.Pin(ctx, []string{activation + "~0:7"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := s.Lease(ctx, record, token, time.Second); err != nil || !reply.Granted {
		t.Fatalf("%+v, %v", reply, err)
	}
	outcome, err := s.Fill(ctx, record, store.FillRequest{
		Token: token, Coverage: fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: 9, Xmax: 9}}, State: fence.Live, Payload: []byte("{}"), TTL: time.Hour,
		Epochs: []fence.Epoch{{Name: "~0:7", ID: pinned.IDs[0]}},
	})
	if err != nil || outcome != fence.Filled {
		t.Fatalf("%v, %v", outcome, err)
	}
}

// TestOf puts together what three sources say, in the order of time.
func TestOf(t *testing.T) {
	t.Parallel()
	s, log := memstore.New(memstore.Options{Namespace: "shop"}), trail.New(0)
	filled(t, s)
	began := time.Now()
	product := &rule.Entry{
		Name: "product", Key: "product:{id}", Version: "0123456789abcdef", Params: []rule.Param{{Name: "id", Type: keytext.Int8}},
		Rules: []rule.Rule{{Schema: "public", Table: "products", Bind: []string{"id"}, Class: rule.Group}},
	}
	recorder := log.Session([]*rule.Entry{product}, nil, 0)
	keys := route.NewKeys(10, 1000)
	keys.Watch(recorder)
	recorder.Begin(change.Begin{XID: 10, End: 160, Committed: began})
	products := &change.Relation{Schema: "public", Name: "products", Columns: []change.Column{{Name: "id", Key: true}}}
	text := change.Value{Kind: change.Text, Text: []byte("7")}
	route.New([]*rule.Entry{product}).Row(&change.Row{Op: change.Insert, Relation: products, New: []change.Value{text}}, keys)
	note := func(after time.Duration, n store.Note) {
		n.At = began.Add(after)
		if err := s.Note(t.Context(), []store.Note{n}); err != nil {
			t.Fatal(err)
		}
	}
	note(-2*time.Second, store.Note{Entry: "product", Name: older + ":product:7", Outcome: store.NoteStored, Bytes: 7})
	note(-time.Second, store.Note{Entry: "product", Name: record, Outcome: "below_floor", Replica: true})
	note(time.Hour, store.Note{Entry: "product", Name: record, Outcome: store.NoteFailed, Error: "no server"})
	note(time.Hour, store.Note{Outcome: store.NoteLeftOut, Count: 12})
	note(time.Hour, store.Note{Outcome: store.NoteLeftOut, Count: 3})
	note(time.Hour, store.Note{Entry: "product", Name: activation + ":product:17", Outcome: store.NoteStored})
	note(time.Hour, store.Note{Entry: "products", Name: record, Outcome: store.NoteStored})

	// What every value of the key is tied to is known without a value, or a note.
	bare := at()
	bare.Name, bare.Tied = "", []string{"~0:7"}
	if found := Of(t.Context(), bare, memstore.New(memstore.Options{Namespace: "shop"}), log); len(found.Events) != 1 || found.Events[0].Epoch != "~0:7" {
		t.Errorf("without a record: %+v", found)
	}

	h := Of(t.Context(), at(), s, log)
	if diff := cmp.Diff([]string{
		"stored loaded from the primary and stored: 7 bytes",
		"refused loaded from a replica and not stored: " + refusals()["below_floor"],
		"epoch_ended INSERT of public.products where id = 7: every key that is tied to ~0:7",
		"failed the load failed: no server",
		"left_out 15 loads, of whatever keys, were not noted one by one: there were too many at a time, or their keys are too long",
	}, lines(h)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	e, seven := h.Events[2], "7"
	e.At, e.Why = time.Time{}, ""
	committed := time.UnixMicro(began.UnixMicro())
	if diff := cmp.Diff(Event{
		Kind: "epoch_ended", XID: 10, LSN: "0/A0", Committed: &committed, Version: "0123456789abcdef", Table: "public.products", Op: "INSERT",
		Row: map[string]*string{"id": &seven}, Image: "new", Rule: 1, Class: "GROUP", Epoch: "~0:7",
	}, e); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if h.Record == nil || h.Record.State != "live" || h.Record.Ended || h.Record.Filled == nil || h.Record.Stamp != "s:0000000000000009:0000000000000009:" {
		t.Errorf("the record: %+v", h.Record)
	}
	if h.Since == nil || len(h.Problems) != 0 || h.More {
		t.Errorf("%+v", h)
	}

	// The epoch ends. What the value was tied to is known all the same.
	if err := s.Release(t.Context(), activation+"~0:7", ""); err != nil {
		t.Fatal(err)
	}
	s.Forget()
	filled(t, s)
	text2 := at()
	text2.Epochs = older // of another name nothing is there
	if h := Of(t.Context(), text2, s, log); h.Record == nil || !h.Record.Ended {
		t.Errorf("what the value is tied to is not there: %+v", h.Record)
	}
}

// broken is a store that does not answer.
type broken struct{ Store }

func (broken) Read(context.Context, string) ([]byte, error) { return nil, errors.New("no answer") }
func (broken) Notes(context.Context) ([]store.Note, error)  { return nil, errors.New("no answer") }
func (broken) Epochs(context.Context, []string) ([]string, error) {
	return nil, errors.New("no answer")
}

// TestProblems: what cannot be had is said, and the rest is there.
func TestProblems(t *testing.T) {
	t.Parallel()
	log := trail.New(0)
	log.Session(nil, nil, 0)
	log.Generation("for a test")
	h := Of(t.Context(), at(), broken{}, log)
	if h.Record != nil || len(h.Problems) != 2 || len(h.Events) != 1 || !strings.Contains(h.Events[0].Why, "for a test") {
		t.Errorf("a store that does not answer: %+v", h)
	}
	empty := memstore.New(memstore.Options{Namespace: "shop"})
	if h = Of(t.Context(), at(), empty, nil); h.Since != nil || len(h.Problems) != 1 || !strings.HasPrefix(h.Problems[0], "no daemon was asked") {
		t.Errorf("no daemon: %+v", h)
	}
	if h = Of(t.Context(), at(), empty, trail.New(0)); h.Since != nil || len(h.Problems) != 1 || !strings.Contains(h.Problems[0], "waits as standby") {
		t.Errorf("a daemon that follows nothing: %+v", h)
	}
	if h.Record == nil || h.Record.State != "none" {
		t.Errorf("a record that is not there: %+v", h.Record)
	}
	unnamed := at()
	unnamed.Name, unnamed.Why = "", "suspended"
	if h = Of(t.Context(), unnamed, empty, log); h.Record != nil || len(h.Problems) != 1 || !strings.HasSuffix(h.Problems[0], "(suspended)") {
		t.Errorf("no name: %+v", h)
	}
}

// TestMost: no more than so many events, the last ones.
func TestMost(t *testing.T) {
	t.Parallel()
	s := memstore.New(memstore.Options{Namespace: "shop"})
	notes := make([]store.Note, MostEvents+5)
	for i := range notes {
		notes[i] = store.Note{At: time.UnixMicro(int64(i + 1)), Entry: "product", Name: record, Outcome: store.NoteStored}
	}
	if err := s.Note(t.Context(), notes); err != nil {
		t.Fatal(err)
	}
	h := Of(t.Context(), at(), s, trail.New(0))
	if len(h.Events) != MostEvents || !h.More || h.Events[MostEvents-1].At.UnixMicro() != MostEvents+5 {
		t.Errorf("%d events, more: %v", len(h.Events), h.More)
	}
}

func TestOfKey(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		record: true, older + ":product:7": true, activation + ":product:77": false, activation + ":x:product:7": false, "product:7": false,
		"f:shop:{3f2}:9f1c66d2a0b34e57:product.0123456789abcdef.fedcba9876543210:product:7": true,
		"f:shop:9f1c66d2a0b34e57:product.0123456789abcdef.fedcba987654321g:product:7":       false,
		activation + "~0:product:7": false,
	} {
		if got := ofKey(name, "product:7"); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestEveryRefusalIsExplained holds the words against the reasons that readers count, which docs/metrics.md lists.
func TestEveryRefusalIsExplained(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(page), "of a refused fill ")
	list, _, _ = strings.Cut(list, "; of ")
	var listed, explained []string
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(list, -1) {
		listed = append(listed, m[1])
	}
	for reason := range refusals() {
		explained = append(explained, reason)
	}
	slices.Sort(listed)
	slices.Sort(explained)
	if diff := cmp.Diff(explained, listed); diff != "" {
		t.Errorf("(-explained +listed):\n%s", diff)
	}
}
