package fill_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/rule"
)

// journal is a log that a test reads.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), text)
}

// logged is a reader whose file declares the product's query differently from everybody else's, unless query is empty.
func (w *world) logged(query string) (*fill.Reader, *journal) {
	w.t.Helper()
	d := declarations()["product"]
	if query != "" {
		d.Query = query
	}
	j := &journal{}
	return w.open(fill.Options{
		Logger: slog.New(slog.NewTextHandler(j, nil)), Entries: map[string]fill.Entry{"product": {Declared: d, TTL: time.Minute}},
	}), j
}

const earlier = "SELECT id FROM product WHERE id = @id"

// withEarlier is a roster that retains an earlier version of the product.
func (w *world) withEarlier(revision uint64) (roster *rule.Roster, prefix string) {
	d := declarations()["product"]
	d.Query = earlier
	roster = w.newRoster(revision)
	e := *roster.Entries["product"]
	e.Definition, e.Declared, e.Retained = d.Digest(), &d, 1
	e.SQL = "SELECT product.id AS id FROM public.product WHERE product.id = $1"
	e.Version, e.Activation = e.Hash(), fmt.Sprintf("%016x", revision+1000)
	roster.Retained = []*rule.Entry{&e}
	return roster, rule.KeyPrefix(w.namespace, w.head.Generation, &e)
}

func (w *world) registered() []string {
	w.t.Helper()
	keys, err := w.raw.Do(w.t.Context(), w.raw.B().Keys().Pattern("f:"+w.namespace+":use:*").Build()).AsStrSlice()
	if err != nil {
		w.t.Fatal(err)
	}
	return keys
}

// TestEachLibraryReadsItsOwnVersion: two libraries with different files share the cache with their like, each under its
// own name; who uses the version that no daemon's file declares registers that, and nobody else registers anything.
func TestEachLibraryReadsItsOwnVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	roster, prefix := w.withEarlier(2)
	w.move(roster)
	current, _ := w.logged("")
	read(t, current, 1, fill.Miss, price(1, 10))
	read(t, current, 1, fill.Hit, price(1, 10))
	if keys := w.registered(); len(keys) > 0 {
		t.Errorf("the daemon's own version was registered: %v", keys)
	}
	older, _ := w.logged(earlier)
	if v := read(t, older, 1, fill.Miss, `{"id":1}`); v.Name != prefix+"product:1" {
		t.Errorf("the older library's key is %s", v.Name)
	}
	read(t, older, 1, fill.Hit, `{"id":1}`)
	key := "f:" + w.namespace + ":use:product." + roster.Retained[0].Definition
	eventually(t, func() error {
		who, err := w.raw.Do(t.Context(), w.raw.B().Get().Key(key).Build()).ToString()
		if err == nil && !strings.Contains(who, ", process ") {
			err = fmt.Errorf("%s is %q", key, who)
		}
		return err
	})
	left, err := w.raw.Do(t.Context(), w.raw.B().Pttl().Key(key).Build()).AsInt64()
	if err != nil || left <= 0 || left > time.Minute.Milliseconds() {
		t.Errorf("the registration lasts %d ms, %v", left, err)
	}

	// The version is retired: its readers notice, and say so.
	w.move(w.newRoster(3))
	eventually(t, func() error {
		v, err := older.Get(t.Context(), "product", arg("1"), nil)
		if err == nil && (v.Reason != "unknown_definition" || string(v.Payload) != `{"id":1}`) {
			err = fmt.Errorf("%+v %s", v, v.Payload)
		}
		return err
	})
}

// TestUnknownDeclarationSaysSo: a library that the daemon does not know neither reads nor fills, and says it once.
func TestUnknownDeclarationSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, log := w.logged(earlier)
	const warning = "the daemon does not serve the entry as it is declared here"
	for range 3 {
		if v := read(t, r, 1, fill.Bypass, `{"id":1}`); v.Reason != "unknown_definition" {
			t.Errorf("%+v", v)
		}
	}
	w.move(w.newRoster(2)) // says nothing new
	pause(t, trust)
	read(t, r, 1, fill.Bypass, `{"id":1}`)
	if n := log.count(warning); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	if keys, err := w.raw.Do(t.Context(), w.raw.B().Keys().Pattern("f:"+w.namespace+":*:*").Build()).AsStrSlice(); err != nil || len(keys) != 0 {
		t.Errorf("stored are %q, %v", keys, err)
	}
	// The daemon is deployed with the file.
	roster, _ := w.withEarlier(3)
	w.move(roster)
	eventually(t, func() error {
		v, err := r.Get(t.Context(), "product", arg("1"), nil)
		if err == nil && v.Status != fill.Hit {
			err = fmt.Errorf("%+v", v)
		}
		return err
	})
	if log.count("the daemon serves the entry as it is declared here") != 1 {
		t.Error("it was not said that the entry is served now")
	}
}

// TestRosterOfAnotherFormat must not be misread: neither read nor filled, and said.
func TestRosterOfAnotherFormat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, log := w.logged("")
	next := w.newRoster(2)
	next.Format = rule.RosterFormatEpochs + 1
	w.move(next)
	if v := read(t, r, 1, fill.Bypass, price(1, 10)); v.Reason != "unknown_roster_format" {
		t.Errorf("%+v", v)
	}
	if log.count("format 3") == 0 {
		t.Error("the log does not say so")
	}
}

// TestNoDaemonSaysSo: the library loads from the database, stores nothing, and says why.
func TestNoDaemonSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noDaemon: true})
	r, log := w.logged("")
	for range 2 {
		if v := read(t, r, 1, fill.Bypass, price(1, 10)); v.Reason != "no_head" {
			t.Errorf("%+v", v)
		}
	}
	if log.count("no daemon vouches for the cache") != 1 {
		t.Error("the log does not say so once")
	}
	if keys, err := w.raw.Do(t.Context(), w.raw.B().Keys().Pattern("f:"+w.namespace+":*").Build()).AsStrSlice(); err != nil || len(keys) != 0 {
		t.Errorf("stored are %q, %v", keys, err)
	}
}

// TestRegistrationThatIsRefused costs nothing but the registration.
func TestRegistrationThatIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	roster, _ := w.withEarlier(2)
	w.move(roster)
	for _, command := range [][]string{
		{"SETUSER", "app", "on", ">secret", "resetkeys", "~f:" + w.namespace + ":????????????????:*", "+@all"},
		{"SETUSER", "app", "%R~f:" + w.namespace + ":head", "%R~f:" + w.namespace + ":roster"},
	} {
		if err := w.raw.Do(t.Context(), w.raw.B().Arbitrary("ACL").Args(command...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	var refused *rueidis.RedisError
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{w.redis.Addr}, DisableCache: true, Username: "app", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Do(t.Context(), client.B().Set().Key("f:"+w.namespace+":use:x").Value("x").Build()).Error(); !errors.As(err, &refused) {
		t.Fatalf("SET of a registration = %v, want that it is refused", err)
	}
	w.store = w.as("app", "secret")
	r, log := w.logged(earlier)
	read(t, r, 1, fill.Miss, `{"id":1}`)
	read(t, r, 1, fill.Hit, `{"id":1}`)
	eventually(t, func() error {
		if log.count("cannot register") == 0 {
			return errors.New("the log does not say so")
		}
		return nil
	})
}
