package redisstore

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit"
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

// A cluster whose keys freshet does not keep: what is scanned and read is of all masters, and a walk during which slots moved says that it
// may not have met every key.
func TestSurveyOfAForeignCluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, true, redistest.Patient()...)
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{cluster.Masters[0].Addr}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	var want []string
	for i := range 3 * namesPerPage {
		want = append(want, "k:"+strconv.Itoa(i))
		if err := client.Do(t.Context(), client.B().Set().Key(want[i]).Value(strconv.Itoa(i)).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	v, err := OpenSurvey(t.Context(), cluster.Masters[2].URL)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	held, err := v.Read(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range held {
		if !h.Found || string(h.Text) != strconv.Itoa(i) || h.TTL != 0 {
			t.Fatalf("%s = %+v", want[i], h)
		}
	}
	walked := func(during func()) (names []string, err error) {
		err = v.Walk(t.Context(), "k:*", func(some []string) error {
			if names == nil {
				during()
			}
			names = append(names, some...)
			return nil
		})
		slices.Sort(names)
		return slices.Compact(names), err
	}
	slices.Sort(want)
	if names, err := walked(func() {}); err != nil || !slices.Equal(names, want) {
		t.Errorf("Walk visits %d names of %d, %v", len(names), len(want), err)
	}
	moves := func() { cluster.Open(t, fence.Slot(15), cluster.Masters[2], cluster.Masters[0]).Finish(t) }
	if _, err := walked(moves); !errors.Is(err, errResharded) {
		t.Errorf("Walk = %v while a slot is moved", err)
	}
	if names, err := walked(func() {}); err != nil || !slices.Equal(names, want) {
		t.Errorf("after that Walk visits %d names of %d, %v", len(names), len(want), err)
	}
	for _, s := range cluster.All() {
		s.Do(t, "CLUSTER", "DELSLOTS", "1")
	}
	testkit.Eventually(t, 10*time.Second, func() error { // others may still speak of it
		v, err := OpenSurvey(t.Context(), cluster.URL)
		if err == nil {
			v.Close()
		}
		if !errors.Is(err, errSlots) {
			return fmt.Errorf("a cluster that is not whole is surveyed: %w", err)
		}
		return nil
	})
	if _, err := OpenSurvey(t.Context(), "redis://127.0.0.1:1/0?cluster=true"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("OpenSurvey without a cluster = %v", err)
	}
}
