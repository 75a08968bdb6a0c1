package fill_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
)

// compressing is a reader whose values of more than 100 bytes are compressed.
func (w *world) compressing(p fill.Policy) *fill.Reader {
	w.t.Helper()
	entries := map[string]fill.Entry{}
	for name, d := range declarations() {
		entries[name] = fill.Entry{Declared: d, TTL: time.Minute, NegativeTTL: time.Minute, CompressAbove: 100, Policy: p}
	}
	return w.readerOf(nil, nil, entries)
}

func (w *world) isPacked(name string, want bool) []byte {
	w.t.Helper()
	text, err := w.raw.Do(w.t.Context(), w.raw.B().Get().Key(name).Build()).AsBytes()
	if err != nil {
		w.t.Fatal(err)
	}
	if _, _, packed := fence.Packed(text); packed != want {
		w.t.Errorf("%q is compressed: %t, want %t", text, packed, want)
	}
	return text
}

// TestCompressedValuesAreReadLikeAnyOther: by readers with the setting and without, singly and many at a time, with a bound or compared with the
// database's; only the bytes in the store are others, and short values and "no such row" are as they were.
func TestCompressedValuesAreReadLikeAnyOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	with, without := w.compressing(fill.Policy{}), w.reader(nil, nil)
	name := w.name("cheaper", "1000")
	read := func(r *fill.Reader, d *fill.Demand, status fill.Status) string {
		t.Helper()
		v, err := r.GetUnder(t.Context(), "cheaper", arg("1000"), nil, d)
		if err != nil || v.Status != status || strings.Count(string(v.Payload), `"id":`) != 99 {
			t.Fatalf("%v %s, %v, want %v with 99 rows", v.Status, v.Payload, err, status)
		}
		return string(v.Payload)
	}
	loaded := read(with, &fill.Demand{}, fill.Miss)
	first := w.isPacked(name, true)
	if len(first) > len(loaded)/2 {
		t.Errorf("%d bytes for a payload of %d", len(first), len(loaded))
	}
	for what, r := range map[string]*fill.Reader{"with": with, "without": without} {
		for _, d := range []*fill.Demand{{}, {Session: &fill.Session{}}} {
			if got := read(r, d, fill.Hit); got != loaded {
				t.Errorf("%s, %+v: %s, want %s", what, d, got, loaded)
			}
		}
		answers := r.GetMany(t.Context(), "cheaper", [][]keytext.Arg{arg("1000"), arg("15")}, &fill.Demand{})
		if a := answers[0]; a.Err != nil || a.Value.Status != fill.Hit || string(a.Value.Payload) != loaded {
			t.Errorf("%s, of many: %+v", what, a)
		}
		// What has not changed is renewed where it is: nobody sends it, and it stays compressed.
		if got := read(r, &fill.Demand{Revalidate: true}, fill.Revalidated); got != loaded {
			t.Errorf("%s, compared: %s, want %s", what, got, loaded)
		}
		if renewed := w.isPacked(name, true); bytes.Equal(renewed, first) {
			t.Errorf("%s: it was not renewed", what)
		}
	}
	w.isPacked(w.name("cheaper", "15"), false)
	read2 := func(id string) {
		t.Helper()
		if _, err := with.Get(t.Context(), "product", arg(id), nil); err != nil {
			t.Fatal(err)
		}
		w.isPacked(w.name("product", id), false)
	}
	read2("1")
	read2("1000")
	w.confirm(name)
	if _, text := w.record(name); text != nil {
		t.Errorf("after a change there is %q", text)
	}
	read(without, &fill.Demand{}, fill.Miss)
	w.isPacked(name, false)
	read(with, &fill.Demand{}, fill.Hit)
	for what, r := range map[string]*fill.Reader{"with": with, "without": without} {
		if s := r.Stats(); s.Corrupt > 0 {
			t.Errorf("%s: %d records were not readable", what, s.Corrupt)
		}
	}
}

// TestCompressedValuesAreKeptStale: one that is invalidated is served, compressed as it is, by readers with the setting and without, until
// another replaces it; and one that cannot be read is not served in any state.
func TestCompressedValuesAreKeptStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	policy := fill.Policy{StaleFor: time.Minute}
	loader, held := &slow{Loader: w.loader}, newValve()
	with, without := w.compressing(policy), w.under(loader, policy)
	name := w.name("cheaper", "1000")
	read := func(r *fill.Reader, status fill.Status, rows int) {
		t.Helper()
		v, err := r.Get(t.Context(), "cheaper", arg("1000"), nil)
		if err != nil || v.Status != status || strings.Count(string(v.Payload), `"id":`) != rows {
			t.Fatalf("%v %s, %v, want %v with %d rows", v.Status, v.Payload, err, status, rows)
		}
	}
	read(with, fill.Miss, 99)
	w.isPacked(name, true)
	w.update(name, "UPDATE product SET price = 1001 WHERE id = 1")
	if header, _, _ := fence.Packed(w.isPacked(name, true)); !strings.HasPrefix(string(header), "f1 v k ") {
		t.Fatalf("what is kept is %q", header)
	}
	loader.before = held.pass
	read(without, fill.Stale, 99)
	<-held.reached
	read(with, fill.Stale, 99)
	if header, _, _ := fence.Packed(w.isPacked(name, true)); !strings.HasPrefix(string(header), "f1 v k ") {
		t.Fatalf("under a lease it is %q", header)
	}
	close(held.open)
	eventually(t, func() error {
		text, err := w.raw.Do(t.Context(), w.raw.B().Get().Key(name).Build()).ToString()
		if err == nil && !strings.HasPrefix(text, "f1 V ") {
			err = fmt.Errorf("it is %q", text)
		}
		return err
	})
	read(with, fill.Hit, 98)
	w.isPacked(name, false)

	w.confirm(name)
	read(with, fill.Miss, 98)
	w.update(name, "UPDATE product SET price = 1001 WHERE id = 2")
	text := w.isPacked(name, true)
	w.put(name, text[:len(text)-1])
	read(with, fill.Miss, 97)
	read(without, fill.Hit, 97)
}

// TestDamagedCompressedValueIsAMiss: it is loaded anew, counted, and replaced.
func TestDamagedCompressedValueIsAMiss(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.compressing(fill.Policy{})
	name := w.name("cheaper", "1000")
	read := func(d *fill.Demand) fill.Value {
		t.Helper()
		v, err := r.GetUnder(t.Context(), "cheaper", arg("1000"), nil, d)
		if err != nil || strings.Count(string(v.Payload), `"id":`) != 99 {
			t.Fatalf("%v %s, %v", v.Status, v.Payload, err)
		}
		return v
	}
	read(&fill.Demand{})
	good := w.isPacked(name, true)
	header, _, _ := strings.Cut(string(good), "\n")
	for what, text := range map[string]string{
		"cut short": string(good[:len(good)-5]), "altered": string(good[:len(good)-5]) + "x" + string(good[len(good)-4:]),
		"no frame": header + "\n[]", "nothing": header + "\n",
	} {
		for _, d := range []*fill.Demand{{}, {Bounded: true, MaxStale: time.Hour}, {Revalidate: true}} {
			if err := w.raw.Do(t.Context(), w.raw.B().Set().Key(name).Value(text).Px(time.Minute).Build()).Error(); err != nil {
				t.Fatal(err)
			}
			if v := read(d); v.Status != fill.Miss {
				t.Errorf("%s, %+v: a %v", what, d, v.Status)
			}
			if v := read(&fill.Demand{}); v.Status != fill.Hit {
				t.Errorf("%s, %+v: then a %v (%s)", what, d, v.Status, v.Reason)
			}
			w.isPacked(name, true)
		}
	}
	if s := r.Stats(); s.Corrupt == 0 {
		t.Errorf("it was not counted: %+v", s)
	}
}
