package redisstore

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit/redistest"
)

func TestSurvey(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	s := open(t, server)
	begin(t, connect(t, s), "00000001.0000000000000001")
	const count = 3 * namesPerPage
	want := []string{s.headKey(0)}
	for i := range count {
		name := s.testName(fmt.Sprintf("k%d", i))
		if err := s.client.Do(t.Context(), s.client.B().Set().Key(name).Value(strconv.Itoa(i)).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	v, err := s.Survey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	var got []string
	if err := v.Walk(t.Context(), s.prefix()+"*", func(names []string) error {
		got = append(got, names...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(want)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("Walk visits %d names, want %d", len(got), len(want))
	}
	stop := errors.New("enough")
	if err := v.Walk(t.Context(), s.prefix()+"*", func([]string) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Walk = %v, want what visit returns", err)
	}
	if head, found, err := v.Head(t.Context()); err != nil || !found || head.Generation != generation {
		t.Errorf("Head() = %+v, %t, %v", head, found, err)
	}
	if text, found, err := v.Roster(t.Context()); err != nil || found {
		t.Errorf("Roster() = %q, %t, %v, want none", text, found, err)
	}
}

func TestSurveyReads(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	v, err := OpenSurvey(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for _, words := range [][]string{
		{"SET", "endless", "a\x00b"}, {"SET", "ending", "c", "PX", "60000"}, {"HSET", "hash", "g", "a\x00b", "f", "v"},
	} {
		if err := v.servers[0].client.Do(t.Context(), v.servers[0].client.B().Arbitrary(words...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	held, err := v.Read(t.Context(), []string{"hash", "absent", "ending", "endless"})
	if err != nil {
		t.Fatal(err)
	}
	if h := held[0]; !h.Found || !h.Other {
		t.Errorf("a hash = %+v", h)
	}
	if h := held[1]; h.Found {
		t.Errorf("an absent key = %+v", h)
	}
	if h := held[2]; !h.Found || string(h.Text) != "c" || h.TTL <= 0 || h.TTL > time.Minute {
		t.Errorf("a key that expires = %+v", h)
	}
	if h := held[3]; !h.Found || string(h.Text) != "a\x00b" || h.TTL != 0 {
		t.Errorf("a key that does not expire = %+v", h)
	}
	held, err = v.ReadHashes(t.Context(), []string{"hash", "absent", "ending"})
	if err != nil {
		t.Fatal(err)
	}
	if h := held[0]; !h.Found || h.Other || string(h.Text) != `{"f":"v","g":"a\u0000b"}` || h.TTL != 0 {
		t.Errorf("a hash = %+v", h)
	}
	if held[1].Found || !held[2].Found || !held[2].Other {
		t.Errorf("what is no hash = %+v", held[1:])
	}
	server.Kill(t)
	if _, err := v.Read(t.Context(), []string{"endless"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Read from a server that is gone = %v", err)
	}
	if _, err := OpenSurvey(t.Context(), server.URL); !errors.Is(err, ErrUnavailable) {
		t.Errorf("OpenSurvey without a server = %v", err)
	}
}
