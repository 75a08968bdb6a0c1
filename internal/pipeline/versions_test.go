package pipeline_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func (r *rig) use(file, table string) redisstore.Use {
	return redisstore.Use{Entry: table, Definition: declaredIn(file, table).Digest()}
}

func (r *rig) register(file, table, who string) {
	r.t.Helper()
	if err := r.store.Register(r.t.Context(), r.use(file, table), who, time.Hour); err != nil {
		r.t.Fatal(err)
	}
}

// withdraw ends the registrations of a version, as their running out would.
func (r *rig) withdraw(file, table string) {
	r.t.Helper()
	u := r.use(file, table)
	redisDo(r.t, r.redisURL, "DEL", "f:"+r.namespace+":use:"+u.Entry+"."+u.Definition)
}

// deploy replaces the daemon by one with another file.
func (r *rig) deploy(d *daemon, file string) *daemon {
	r.t.Helper()
	d.stop()
	r.file = file
	next := r.start()
	next.streaming()
	return next
}

func (r *rig) retired(file, table string) {
	r.t.Helper()
	testkit.Eventually(r.t, patience, func() error {
		if r.version(file, table) != nil {
			return fmt.Errorf("the version of file %q is still in the roster", file)
		}
		return nil
	})
}

// TestEarlierVersionIsServedWhileItIsUsed is a rolling deploy: the daemon has the new file, libraries have either. Both
// keep what they have cached, a change invalidates both, and the old version goes when nobody registers it any more.
func TestEarlierVersionIsServedWhileItIsUsed(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.unused, r.sweep, r.file = time.Millisecond, 100*time.Millisecond, "old"
	d := r.start()
	d.streaming()
	old, kept := r.cachedIn("old", "items", 1), r.cachedIn("old", "items", 2)

	r.register("old", "items", "a library\x1b[2J")
	d = r.deploy(d, "new")
	if name := r.nameIn("old", "items", 1); name != old || !r.present(old) {
		t.Errorf("the earlier version moved from %s to %s, or lost its values", old, name)
	}
	fresh := r.cachedIn("new", "items", 1)
	r.exec(`UPDATE items SET v = 'changed' WHERE id = 1`)
	r.gone(old)
	r.gone(fresh)
	r.cachedIn("old", "items", 1)
	r.cachedIn("new", "items", 1)

	st := d.await("aware of the use", func(st pipeline.Status) bool { return len(st.Entries) == 2 && st.Entries[1].LastUsed != nil })
	if e := st.Entries[1]; e.Retained == nil || e.UsedBy != "a library?[2J" || st.Entries[0].Retained != nil {
		t.Errorf("Entries = %+v", st.Entries)
	}
	r.withdraw("old", "items")
	r.retired("old", "items")
	r.gone(kept) // swept
	if !r.present(r.nameIn("new", "items", 1)) {
		t.Error("the sweep removed a live record")
	}
	// Deployed back, the old version is live again, and its name is not.
	r.deploy(d, "old")
	if name := r.nameIn("old", "items", 1); name == old {
		t.Errorf("the name %s has returned", name)
	}
}

// TestDaemonWithAnEarlierFileKeepsTheLaterVersion: which of two daemons with different files is the active one is of no
// concern to the libraries of either.
func TestDaemonWithAnEarlierFileKeepsTheLaterVersion(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.file = "old"
	d := r.start()
	d.streaming()
	d = r.deploy(d, "new")
	names := []string{r.cachedIn("old", "items", 1), r.cachedIn("new", "items", 1)}
	d = r.deploy(d, "old") // the standby
	for i, file := range []string{"old", "new"} {
		if name := r.nameIn(file, "items", 1); name != names[i] || !r.present(name) {
			t.Errorf("file %q: the name moved from %s to %s, or its value is gone", file, names[i], name)
		}
	}
	if r.version("old", "items").Retained != 0 || r.version("new", "items").Retained == 0 {
		t.Error("retained is the other version, not the one that the file declares")
	}
	r.exec(`UPDATE items SET v = 'changed' WHERE id = 1`)
	r.gone(names[0])
	r.gone(names[1])
	d.stop()
}

// TestRetiringWaitsForReaders holds that Wc stands still while readers may go on under a name that is confirmed no more.
func TestRetiringWaitsForReaders(t *testing.T) {
	t.Parallel()
	waited := time.Duration(0)
	for n := 0; n < 5 && waited < 900*time.Millisecond; n++ { // a busy machine may see late that the version was retired
		waited = max(waited, waitsForReaders(t))
	}
	// The poll that saw the roster came a little after it was written.
	if waited < 900*time.Millisecond {
		t.Errorf("Wc moved %v after the version was retired; readers may use its name for a second", waited)
	}
}

func waitsForReaders(t *testing.T) time.Duration {
	t.Helper()
	r := newRig(t, options{})
	r.unused, r.file = time.Millisecond, "old"
	d := r.start()
	defer d.stop()
	d.streaming()
	r.register("old", "items", "a library")
	r.deploy(d, "new")
	r.cachedIn("old", "items", 1)
	r.withdraw("old", "items")
	r.retired("old", "items")
	at := time.Now()
	before := r.head().Wc
	r.exec(`UPDATE items SET v = 'changed' WHERE id = 1`)
	testkit.Eventually(t, patience, func() error {
		if r.head().Wc == before {
			return errors.New("Wc stands still")
		}
		return nil
	})
	return time.Since(at)
}

// TestNewGenerationKeepsEarlierVersions: also when all is lost, those that live libraries use are served.
func TestNewGenerationKeepsEarlierVersions(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	r := newRig(t, options{redis: redis})
	r.file = "old"
	d := r.start()
	d.streaming()
	d = r.deploy(d, "new")
	old := r.nameIn("old", "items", 1)
	generation := d.Status().Generation
	redis.FlushAll(t)
	d.await("in a new generation", func(st pipeline.Status) bool { return st.Generation != generation && st.Phase == pipeline.Streaming })
	d.streaming()
	if name := r.cachedIn("old", "items", 1); name == old {
		t.Errorf("the name %s has returned", name)
	}
	// And when the daemon is another one, which knows them from the roster of a generation that has ended.
	d.stop()
	redisDo(t, r.redisURL, "DEL", "f:"+r.namespace+":head")
	r.start().streaming()
	r.cachedIn("old", "items", 1)
}

// TestRetainedVersionsAreBounded holds that of each entry those versions are served that were declared last, and none that
// is not what its digest says.
func TestRetainedVersionsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.file = "last"
	d := r.start()
	d.streaming()
	d.stop()
	roster := storedRoster(t, r)
	for i := range 6 {
		e := entryOf(declaredIn(strconv.Itoa(i), "items"))
		e.Version, e.Activation, e.Retained = e.Hash(), "0123456789abcdef", int64(1000+i)
		roster.Retained = append(roster.Retained, e)
	}
	forged := *roster.Retained[5]
	forged.Definition, forged.Retained = declaredIn("forged", "items").Digest(), 2000
	roster.Retained = append(roster.Retained, &forged)
	redisDo(t, r.redisURL, "SET", "f:"+r.namespace+":roster", string(roster.Text()))
	r.file = "new"
	r.start().streaming()
	for file, want := range map[string]bool{
		"new": true, "last": true, "5": true, "4": true, "3": true, "2": false, "1": false, "0": false, "forged": false,
	} {
		if got := r.version(file, "items") != nil; got != want {
			t.Errorf("the version of file %s is served: %v, want %v", file, got, want)
		}
	}
}

// TestEntryThatIsInNoFile is served on for its libraries, unless that would take publishing a table.
func TestEntryThatIsInNoFile(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.exec(`CREATE TABLE extra (id int PRIMARY KEY, v text)`, `INSERT INTO extra VALUES (1, 'v')`)
	r.tables = []string{"items", "extra"}
	d := r.start()
	d.streaming()
	r.tables = []string{"items"}
	d = r.deploy(d, "")
	name := r.cachedIn("", "extra", 1)
	r.exec(`DELETE FROM extra`)
	r.gone(name)
	d.stop()
	r.exec(`ALTER PUBLICATION freshet DROP TABLE extra`)
	d = r.start()
	d.streaming()
	if r.version("", "extra") != nil {
		t.Error("an entry over a table that is not in the stream is served")
	}
	d.stop()
}

// TestForgedRegistrations floods the store with registrations, as anybody with an application's password can. The daemon
// reads those of the versions that it retains, and no more of each than a name.
func TestForgedRegistrations(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	r := newRig(t, options{redis: redis})
	r.file, r.unused, r.sweep = "old", time.Millisecond, 100*time.Millisecond
	d := r.start()
	d.streaming()
	r.register("old", "items", strings.Repeat("x", 1<<20))
	use := r.use("old", "items")
	key := "f:" + r.namespace + ":use:items." + use.Definition
	redisDo(t, r.redisURL, "SET", key, strings.Repeat("x", 8<<20))
	flood := "for i = 1, 20000 do redis.call('SET', KEYS[1] .. i, 'forged') end"
	redisDo(t, r.redisURL, "EVAL", flood, "1", "f:"+r.namespace+":use:items.0")
	redisDo(t, r.redisURL, "EVAL", flood, "1", "f:"+r.namespace+":use:other.0")
	d = r.deploy(d, "new")
	st := d.await("aware of the use", func(st pipeline.Status) bool { return len(st.Entries) == 2 && st.Entries[1].LastUsed != nil })
	if n := len(st.Entries[1].UsedBy); n != 128 {
		t.Errorf("%d bytes of a registration were believed", n)
	}
	if roster := storedRoster(t, r); len(roster.Entries) != 1 || len(roster.Retained) != 1 {
		t.Errorf("the roster has %d entries and %d further versions", len(roster.Entries), len(roster.Retained))
	}
	redisDo(t, r.redisURL, "DEL", key)
	redisDo(t, r.redisURL, "LPUSH", key, "no registration")
	r.retired("old", "items")
	r.cachedIn("new", "items", 1)
	testkit.Eventually(t, patience, func() error { // what belongs to no version is swept
		reply := redisDo(t, r.redisURL, "KEYS", "f:"+r.namespace+":use:*")
		keys, err := reply.AsStrSlice()
		if err == nil && len(keys) > 0 {
			err = fmt.Errorf("there are %d registrations", len(keys))
		}
		return err
	})
	d.stop()
}
