package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
)

func TestSameJSON(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{`{"id": 1, "price": 9.90}`, `{"price":9.90,"id":1}`, true},
		{`{"price":9.90}`, `{"price":9.91}`, false},
		{`{"price":12345678901234567.01}`, `{"price":12345678901234567.02}`, false},
		{`[{"id":1},{"id":2}]`, `[{"id":2},{"id":1}]`, true},
		{`[{"id":1},{"id":1}]`, `[{"id":1}]`, false},
		{`[]`, `[]`, true},
		{`{"city":null}`, `{"city":""}`, false},
	} {
		if got, err := sameJSON([]byte(tt.a), []byte(tt.b)); err != nil || got != tt.want {
			t.Errorf("sameJSON(%s, %s) = %v, %v, want %v", tt.a, tt.b, got, err, tt.want)
		}
	}
	if _, err := sameJSON([]byte(`{`), []byte(`{}`)); err == nil {
		t.Error("broken JSON passes")
	}
}

// What the comparison is worth: it finds whatever differs among what is right.
func TestCompareFindsWhatIsStale(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	st := &stage{pool: s.pool, client: s.client}
	truth, err := st.truth(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(truth) != 10000+10000+250+10000 {
		t.Fatalf("%d keys, want 30250", len(truth))
	}
	if got, want := truth["user:5:profile"], `"city":null`; !strings.Contains(got, want) {
		t.Errorf("profile without an address = %s, want %s in it", got, want)
	}
	prefix := s.plain.Prefix
	store := func(key string, r fence.Record) {
		t.Helper()
		set := s.client.B().Set().Key(prefix + key).Value(string(r.Append(nil))).Px(time.Minute).Build()
		if err := s.client.Do(t.Context(), set).Error(); err != nil {
			t.Fatal(err)
		}
	}
	live := func(payload string) fence.Record { return fence.Record{State: fence.Live, Payload: []byte(payload)} }
	store("product:1", live(truth["product:1"]))
	store("user:5:profile", live(truth["user:5:profile"]))
	store("category:3", live(truth["category:3"]))
	store("category:999", live("[]"))
	store("product:99999", fence.Record{State: fence.Negative})
	store("product:2", fence.Record{State: fence.Stale, Payload: []byte(`{"price":0}`)}) // known to be stale: nobody is served it

	audit := func() audited {
		t.Helper()
		names, err := st.names(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		var a audited
		if err := st.compare(t.Context(), &a, prefix, names, truth); err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := audit(); a.cached != 5 || a.stale != 0 {
		t.Fatalf("audit of what is right = %+v, want 5 cached, 0 stale", a)
	}
	for key, r := range map[string]fence.Record{
		"product:3":       live(`{"id":3,"name":"x","price":1.00}`),
		"product:4":       {State: fence.Negative},
		"product:88888":   live(`{"id":88888,"name":"x","price":1.00}`),
		"category:998":    live(`[{"id":1}]`),
		"user:10:profile": live(strings.Replace(truth["user:10:profile"], "null", `"Oslo"`, 1)),
	} {
		before := audit().stale
		store(key, r)
		if a := audit(); a.stale != before+1 || a.sample == "" {
			t.Errorf("audit with a wrong %s = %+v, want %d stale", key, a, before+1)
		}
	}
	step := newStep("x", "")
	audit().note(step)
	if len(step.Reasons) != 1 {
		t.Errorf("reasons = %q, want one", step.Reasons)
	}
	empty := newStep("x", "")
	audited{}.note(empty)
	if len(empty.Reasons) != 1 {
		t.Errorf("reasons with nothing cached = %q, want one", empty.Reasons)
	}
}

func TestNextPrice(t *testing.T) {
	t.Parallel()
	for price, want := range map[string]string{"9.93": "10.00", "0.10": "0.17", "99999999.01": "99999999.08"} {
		if got, err := nextPrice(price); err != nil || got != want {
			t.Errorf("nextPrice(%s) = %s, %v, want %s", price, got, err, want)
		}
	}
	if _, err := nextPrice(absent); err == nil {
		t.Error("nextPrice of no price has no error")
	}
}

func TestNextCityTakesItsTimeToComeBack(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	city := nextCity("")
	for !seen[city] {
		seen[city] = true
		city = nextCity(city)
	}
	if len(seen) < 30 {
		t.Errorf("a city comes back after %d moves", len(seen))
	}
}

func TestRedisVersion(t *testing.T) {
	t.Parallel()
	for info, want := range map[string]string{
		"# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n":                     "7.0.15",
		"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n": "(Valkey) 8.1.1",
	} {
		if got := redisVersion(info); got != want {
			t.Errorf("redisVersion = %q, want %q", got, want)
		}
	}
}
