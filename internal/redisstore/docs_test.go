package redisstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// The examples of docs/redis.md are what the code reads and writes.
func TestDocumentedLayouts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := map[string][]string{}
	for i, part := range strings.Split(string(text), "```") {
		if i%2 == 1 {
			kind, body, _ := strings.Cut(part, "\n")
			blocks[kind] = append(blocks[kind], strings.TrimSuffix(body, "\n"))
		}
	}
	for kind, want := range map[string]int{"name": 1, "epoch": 1, "record": 8, "head": 1, "tick": 1, "json": 1, "use": 1, "notes": 1, "note": 1, "lane": 1, "tags": 1} {
		if len(blocks[kind]) != want {
			t.Fatalf("docs/redis.md has %d examples of %q, want %d", len(blocks[kind]), kind, want)
		}
	}

	states := []fence.State{fence.Live, fence.Negative, fence.None, fence.Live, fence.None, fence.Live, fence.Live, fence.Stale}
	for i, example := range blocks["record"] {
		r, err := fence.ParseRecord([]byte(example))
		if err != nil {
			t.Errorf("record %d: %v", i, err)
			continue
		}
		if r.State != states[i] {
			t.Errorf("record %d is %v, want %v", i, r.State, states[i])
		}
		if got := string(r.Append(nil)); got != example {
			t.Errorf("record %d is written as\n%q, documented as\n%q", i, got, example)
		}
	}
	first, err := fence.ParseRecord([]byte(blocks["record"][0]))
	if err != nil || string(first.Payload) != `{"id": 42, "name": "Kettle", "price": 1999}` || first.Coverage.Snapshot.Xmax != 742 {
		t.Errorf("the first record is %+v, %v", first, err)
	}

	if field := fence.BucketOf(blocks["name"][0]).Field(); !strings.Contains(blocks["head"][0], "\n"+field+" ") {
		t.Errorf("the documented HEAD does not have the bucket of the documented name, %s", field)
	}

	name, id, _ := strings.Cut(blocks["epoch"][0], "\n")
	if want := rule.AppendEpoch([]byte(strings.TrimSuffix(blocks["name"][0], ":product:42")), 1, []keytext.Arg{{Text: "7"}}); name != string(want) || !fence.ValidEpochID(id) {
		t.Errorf("the documented epoch is %s with %s, want %s", name, id, want)
	}
	if last, err := fence.ParseRecord([]byte(blocks["record"][5])); err != nil || !strings.HasSuffix(name, last.Epochs[1].Name) || last.Epochs[1].ID != id {
		t.Errorf("the last record is tied to %+v, %v", last.Epochs, err)
	}
	if field := fence.BucketOf(name).EndedField(); !strings.Contains(blocks["head"][0], "\n"+field+" ") {
		t.Errorf("the documented HEAD does not have the bucket of the documented epoch, %s", field)
	}

	var (
		h    fence.Head
		want []string
	)
	for line := range strings.SplitSeq(blocks["head"][0], "\n") {
		name, value, _ := strings.Cut(line, " ")
		if err := h.SetField(name, value); err != nil {
			t.Error(err)
		}
		want = append(want, name, value)
	}
	if diff := cmp.Diff(want, h.Fields()); diff != "" {
		t.Errorf("HEAD (-documented +written):\n%s", diff)
	}

	if tick, ok := fence.ParseTick(blocks["tick"][0]); !ok || tick.String() != blocks["tick"][0] || tick.Reaches(h.Tick) != true || h.Tick.Reaches(tick) {
		t.Errorf("the tick %v is not the one after HEAD's %v", tick, h.Tick)
	}

	roster, err := rule.ParseRoster([]byte(blocks["json"][0]))
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, roster.Text(), "", "  "); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(blocks["json"][0], indented.String()); diff != "" {
		t.Errorf("roster (-documented +written):\n%s", diff)
	}
	if roster.Revision != h.Revision || roster.Generation != h.Generation || roster.Term != string(h.Term) {
		t.Errorf("roster %s, %s, %d is not that of HEAD %s, %s, %d", roster.Generation, roster.Term, roster.Revision, h.Generation, h.Term, h.Revision)
	}
	record := rule.KeyPrefix("shop", h.Generation, roster.Entries["product"]) + "product:42"
	if diff := cmp.Diff(blocks["name"][0], record); diff != "" {
		t.Errorf("name (-documented +written):\n%s", diff)
	}
	generations := make([]string, fence.Lanes)
	for i := range generations {
		generations[i] = "0a1b2c3d4e5f6071"
	}
	inLane := fence.LanePrefixes("shop", h.Generation, generations, rule.KeyTail(roster.Entries["product"]))[fence.LaneOf("product:42")] + "product:42"
	if diff := cmp.Diff(blocks["lane"][0], inLane); diff != "" {
		t.Errorf("name in a lane (-documented +written):\n%s", diff)
	}
	var tags []string
	for lane := range fence.Lanes {
		_, tag, _ := strings.Cut(strings.TrimSuffix(fence.LaneNamespace("", fence.Lanes, lane), "}"), "{")
		tags = append(tags, fmt.Sprintf("%s %d", tag, fence.Slot(lane)))
	}
	if diff := cmp.Diff(blocks["tags"][0], strings.Join(tags, "\n")); diff != "" {
		t.Errorf("tags (-documented +used):\n%s", diff)
	}
	for e := range roster.Versions() {
		if got := e.Declared.Digest(); got != e.Definition {
			t.Errorf("the digest of %+v is %s, documented as %s", e.Declared, got, e.Definition)
		}
	}
	s := &Store{lanes: 1, namespace: "shop"}
	u := Use{Entry: "product", Definition: roster.Retained[0].Definition}
	if diff := cmp.Diff(blocks["use"][0], s.useKey(u)); diff != "" {
		t.Errorf("use (-documented +written):\n%s", diff)
	}
	if diff := cmp.Diff(blocks["notes"][0], s.noteKey()); diff != "" {
		t.Errorf("notes (-documented +written):\n%s", diff)
	}
	fields, lines := map[string]string{}, []string{}
	for line := range strings.SplitSeq(blocks["note"][0], "\n") {
		name, value, _ := strings.Cut(line, " ")
		fields[name] = value
	}
	note, ok := parseNote(fields)
	for _, f := range noteFields(&note) {
		lines = append(lines, f[0]+" "+f[1])
	}
	if diff := cmp.Diff(blocks["note"][0], strings.Join(lines, "\n")); !ok || diff != "" {
		t.Errorf("note (-documented +written):\n%s", diff)
	}
	if parsed, ok := parseUse(strings.TrimPrefix(s.useKey(u), s.prefix())); !ok || parsed != u {
		t.Errorf("the use is read as %+v", parsed)
	}
}
