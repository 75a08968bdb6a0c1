package freshet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshetmsgpack"
	"github.com/freshet/freshet/freshetproto"
)

var (
	_ freshet.Codec  = freshetmsgpack.Codec{}
	_ freshet.Codec  = freshetproto.Codec{}
	_ freshet.Shaper = freshetproto.Codec{}
)

type (
	order1 struct {
		Lines []string `json:"lines"`
	}
	order2 struct { // has gained a field
		Lines []string `json:"lines"`
		Note  string   `json:"note"`
	}
	tree struct {
		Leaves []*tree
		Size   int
	}
)

// loading is an entry of code whose loads are counted.
func loading[V any](t *testing.T, cache *freshet.Cache, value V, options ...freshet.Option[int, V]) (*freshet.Typed[int, V], *atomic.Int64) {
	t.Helper()
	loads := new(atomic.Int64)
	options = append(options, freshet.Load(func(context.Context, freshet.Querier, int) (V, error) {
		loads.Add(1)
		return value, nil
	}))
	return entry(t, cache, "total", options...), loads
}

// reads asks for the key, which has to be loaded so many times in all.
func reads[V any](t *testing.T, what string, typed *freshet.Typed[int, V], loads *atomic.Int64, times int64, same func(V) bool) {
	t.Helper()
	value, err := typed.Get(t.Context(), 7)
	if err != nil || !same(value) {
		t.Errorf("%s: Get() = %v, %v", what, value, err)
	}
	if n := loads.Load(); n != times {
		t.Errorf("%s: %d loads, want %d", what, n, times)
	}
}

// TestCodecs: what one codec has stored, or another type, is a miss for each other one, and never an error; among their own they are hits.
func TestCodecs(t *testing.T) {
	t.Parallel()
	s := published(t)
	cache, other := open(t, freshet.Options{Config: s.file}), open(t, freshet.Options{Config: s.file})
	lines := []string{"K-1", "C-2"}
	is := func(got []string) bool { return strings.Join(got, " ") == "K-1 C-2" }
	plain, loads := loading(t, cache, order1{lines})
	again, spared := loading(t, other, order1{lines})
	grown, grownLoads := loading(t, cache, order2{lines, "by hand"})
	packed, packedLoads := loading(t, cache, order1{lines}, freshet.WithCodec[int, order1](freshetmsgpack.Codec{}))
	message, messageLoads := loading(t, cache, wrapperspb.String("C-2"), freshet.WithCodec[int, *wrapperspb.StringValue](freshetproto.Codec{}))
	garbled, garbledLoads := loading(t, cache, order1{lines}, freshet.WithCodec[int, order1](reversed{}))
	asFirst := func(v order1) bool { return is(v.Lines) }
	for round := range int64(2) {
		reads(t, "json", plain, loads, round+1, asFirst)
		reads(t, "json, from the cache", plain, loads, round+1, asFirst)
		reads(t, "json, in another process", again, spared, 0, asFirst)
		reads(t, "a type that has grown", grown, grownLoads, round+1, func(v order2) bool { return is(v.Lines) && v.Note == "by hand" })
		reads(t, "a type that has grown, from the cache", grown, grownLoads, round+1, func(v order2) bool { return v.Note == "by hand" })
		reads(t, "msgpack", packed, packedLoads, round+1, asFirst)
		reads(t, "msgpack, from the cache", packed, packedLoads, round+1, asFirst)
		reads(t, "protobuf", message, messageLoads, round+1, func(v *wrapperspb.StringValue) bool { return v.GetValue() == "C-2" })
		reads(t, "protobuf, from the cache", message, messageLoads, round+1, func(v *wrapperspb.StringValue) bool {
			return proto.Equal(v, wrapperspb.String("C-2"))
		})
		reads(t, "one's own", garbled, garbledLoads, round+1, asFirst)
		reads(t, "one's own, from the cache", garbled, garbledLoads, round+1, asFirst)
	}
	if stats := cache.Stats(); stats.LoadErrors != 0 || stats.Corrupt != 0 {
		t.Errorf("Stats = %+v", stats)
	}
}

// reversed is a codec of a user's own.
type reversed struct{}

func (reversed) Name() string { return "reversed" }

func (reversed) Encode(value any) ([]byte, error) {
	v, ok := value.(order1)
	if !ok {
		return nil, errors.New("only orders")
	}
	lines := []byte(strings.Join(v.Lines, "\x00"))
	for i, j := 0, len(lines)-1; i < j; i, j = i+1, j-1 {
		lines[i], lines[j] = lines[j], lines[i]
	}
	return lines, nil
}

func (reversed) Decode(data []byte, into any) error {
	v, ok := into.(*order1)
	if !ok {
		return errors.New("only orders")
	}
	lines := bytes.Clone(data)
	for i, j := 0, len(lines)-1; i < j; i, j = i+1, j-1 {
		lines[i], lines[j] = lines[j], lines[i]
	}
	v.Lines = strings.Split(string(lines), "\x00")
	return nil
}

// unnamed is a codec that cannot be told from others.
type unnamed struct{ reversed }

func (unnamed) Name() string { return "" }

// namesake is a codec that calls itself the one by default.
type namesake struct{ reversed }

func (namesake) Name() string { return "json" }

// TestCodecErrors: what cannot be a codec is said at once, and what it cannot encode is the reader's error.
func TestCodecErrors(t *testing.T) {
	t.Parallel()
	cache := open(t, freshet.Options{Config: published(t).file})
	load := freshet.Load(func(context.Context, freshet.Querier, int) (order1, error) { return order1{}, nil })
	for what, made := range map[string]error{
		"must not be empty":    second(freshet.Entry(cache, "total", load, freshet.WithCodec[int, order1](unnamed{}))),
		"what a query loads":   second(freshet.Entry(cache, "product", freshet.WithCodec[int, order1](reversed{}))),
		"give it another name": second(freshet.Entry(cache, "total", load, freshet.WithCodec[int, order1](namesake{}))),
	} {
		if made == nil || !strings.Contains(made.Error(), what) {
			t.Errorf("%s: %v", what, made)
		}
	}
	wrong, _ := loading(t, cache, 7, freshet.WithCodec[int, int](freshetproto.Codec{}))
	if v, err := wrong.Get(t.Context(), 7); err == nil || !strings.Contains(err.Error(), "a int is not a message") {
		t.Errorf("Get() = %v, %v", v, err)
	}
	deep, loads := loading(t, cache, tree{Leaves: []*tree{{Size: 1}}, Size: 2})
	reads(t, "a type that contains itself", deep, loads, 1, func(v tree) bool { return v.Leaves[0].Size == 1 })
	reads(t, "a type that contains itself, from the cache", deep, loads, 1, func(v tree) bool { return v.Leaves[0].Size == 1 })
}

// edition is a codec whose format has changed, and whose name has not.
type edition struct{ mark string }

func (edition) Name() string { return "edition" }

func (e edition) Encode(value any) ([]byte, error) { return fmt.Append(nil, e.mark, value), nil }

func (e edition) Decode(data []byte, into any) error {
	text, ok := strings.CutPrefix(string(data), e.mark)
	value, isText := into.(*string)
	if !ok || !isText {
		return errors.New("not of this edition")
	}
	*value = text
	return nil
}

// TestCodecThatChangedUnderItsName: what it has stored before and does not read now is loaded anew and stored over, for a read of one key and of many.
// One that does not read what it has just stored is an error.
func TestCodecThatChangedUnderItsName(t *testing.T) {
	t.Parallel()
	s := published(t)
	with := func(mark string) (*freshet.Typed[int, string], *atomic.Int64) {
		return loading(t, open(t, freshet.Options{Config: s.file}), "tea", freshet.WithCodec[int, string](edition{mark}))
	}
	tea := func(v string) bool { return v == "tea" }
	first, firstLoads := with("1:")
	second, secondLoads := with("2:")
	third, thirdLoads := with("3:")
	reads(t, "first", first, firstLoads, 1, tea)
	reads(t, "second", second, secondLoads, 1, tea)
	reads(t, "second again", second, secondLoads, 1, tea)
	results, err := third.GetMany(t.Context(), []int{7, 8})
	if err != nil || results[0].Value != "tea" || results[1].Value != "tea" || thirdLoads.Load() != 2 {
		t.Errorf("GetMany() = %+v, %v, after %d loads", results, err, thirdLoads.Load())
	}
	broken, loads := loading(t, open(t, freshet.Options{Config: s.file}), "tea", freshet.WithCodec[int, string](halfCodec{edition{"4:"}}))
	if _, err := broken.Get(t.Context(), 7); err == nil || !strings.Contains(err.Error(), "not of this edition") || loads.Load() != 1 {
		t.Errorf("Get() = %v, after %d loads", err, loads.Load())
	}
}

// halfCodec encodes and does not decode.
type halfCodec struct{ edition }

func (halfCodec) Decode([]byte, any) error { return errors.New("not of this edition") }
