package redisstore

import (
	"testing"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

// TestTicks: readers count, the daemon reads the count with each batch and writes it beside Sa, and readers find it there.
func TestTicks(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	c := connect(t, s)
	head := begin(t, c, fence.NewTerm(1, 9))
	count := func() fence.Tick {
		t.Helper()
		tick, err := s.Tick(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return tick
	}
	set := func(text string) {
		t.Helper()
		if err := s.client.Do(t.Context(), s.client.B().Set().Key(s.tickKey(0)).Value(text).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	first := count()
	if first.N != 1 || len(first.ID) != 16 {
		t.Errorf("the first tick is %v", first)
	}
	if next := count(); next.ID != first.ID || next.N != 2 {
		t.Errorf("after %v comes %v", first, next)
	}
	if err := c.DrawTick(t.Context()); err != nil {
		t.Fatal(err)
	}
	drawn := count()
	if drawn.ID == first.ID || drawn.N != 1 {
		t.Errorf("after a new beginning comes %v", drawn)
	}
	result, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 200, Si: sees(20), Advance: 100, Sa: sees(20), Ticks: fence.Ticks{drawn}})
	if err != nil || result.Ticks[0] != drawn {
		t.Errorf("Apply = %+v, %v", result, err)
	}
	name := s.testName("k")
	if h, found, held, err := s.ReadWithHead(t.Context(), name, nil); err != nil || !found || h.Tick != drawn || h.Sa.Xmax != 20 || h.Wc != 100 || held.Text != nil {
		t.Errorf("ReadWithHead = %+v, %t, %q, %v", h, found, held.Text, err)
	}
	// Without Sa the tick stays as well.
	if _, err := c.Apply(t.Context(), Batch{Expect: expect(head), Wi: 300, Si: sees(30), Advance: 300, Ticks: fence.Ticks{count()}}); err != nil {
		t.Fatal(err)
	}
	leased(t, s, name, token('a'))
	filled(t, s, name, token('a'), 40)
	if h, found, held, err := s.ReadWithHead(t.Context(), name, nil); err != nil || !found || h.Tick != drawn || h.Wc != 300 || held.Text == nil {
		t.Errorf("ReadWithHead = %+v, %t, %q, %v", h, found, held.Text, err)
	}
	// The count is a number of 64 bits, which a double does not hold.
	for text, want := range map[string]string{
		"00000000000000cc.00000000ffffffff": "00000000000000cc.0000000100000000",
		"00000000000000cc.002fffffffffffff": "00000000000000cc.0030000000000000",
		"00000000000000cc.0020000000000001": "00000000000000cc.0020000000000002",
	} {
		set(text)
		if got := count().String(); got != want {
			t.Errorf("after %s comes %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"17", "", "00000000000000cc.17", "x"} {
		set(text)
		if got := count(); got.N != 1 || got.ID == "00000000000000cc" {
			t.Errorf("after %q comes %v, want a new count", text, got)
		}
		set(text)
		if got, err := c.Ticks(t.Context()); err != nil || got != (fence.Ticks{}) {
			t.Errorf("the daemon reads %q as %v, %v", text, got, err)
		}
	}
	if err := s.client.Do(t.Context(), s.client.B().Arbitrary("SCRIPT", "FLUSH").Build()).Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Fatal(err)
	}
	count()
}
