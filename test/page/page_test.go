// Package page drives the daemon's web page in a real browser, against the real program and real servers.
package page

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/browsertest"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// hostile is a row's id that a page which did not show it as text would run.
const hostile = `<img src=x onerror="document.title='run'">'"&`

// world is a daemon with a file of its own, always at the same address.
type world struct {
	t    *testing.T
	pg   *pgtest.Server
	url  string // of the database
	file string
	addr string
}

func newWorld(t *testing.T, pg *pgtest.Server, more string) *world {
	t.Helper()
	w := &world{t: t, pg: pg, url: pg.Database(t), file: filepath.Join(t.TempDir(), "freshet.yaml"), addr: freeAddress(t)}
	namespace := redistest.Namespace(t)
	slot := strings.ReplaceAll(namespace, "-", "_")
	pg.Exec(t, w.url, `CREATE TABLE products (id int PRIMARY KEY, name text)`, `INSERT INTO products VALUES (7, 'tea')`,
		`CREATE TABLE notes (id text, lang text, words text)`, `ALTER TABLE notes REPLICA IDENTITY FULL`)
	config := fmt.Sprintf("namespace: %s\ndatabase: {url: %q}\nsource: {postgres: {slot: %s, publication: %s}}\n"+
		"regions: [{name: local, redis: {url: %q}}]\nlisten: %s\n%sentries:\n"+
		"  product: {key: 'product:{id}', query: 'SELECT id, name FROM products WHERE id = @id'}\n"+
		"  note: {key: 'note:{id}:{lang}', query: 'SELECT words FROM notes WHERE id = @id AND lang = @lang', result: many}\n",
		namespace, w.url, slot, slot, redistest.Shared(t).URL, w.addr, more)
	if err := os.WriteFile(w.file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func freeAddress(t *testing.T) string {
	t.Helper()
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (w *world) serve() *servetest.Daemon { return servetest.Start(w.t, "page", w.file) }

const (
	word     = `document.querySelector(".region .word")?.textContent`
	figures  = `document.querySelector(".region .figures").textContent`
	contact  = `document.getElementById("contact").textContent`
	current  = `[...document.querySelectorAll("#plots .now")].map((e) => e.textContent).join("; ")`
	timeline = `document.getElementById("history").innerText`
	refused  = `document.getElementById("refused").textContent`
	shown    = `document.getElementById("main").checkVisibility()`
)

// quiet fails when the browser complained of anything but what is expected; of the page's own policy, or of its script, never.
func quiet(t *testing.T, tab *browsertest.Tab, expected ...string) {
	t.Helper()
	if said := tab.Complaints(expected...); len(said) > 0 {
		t.Errorf("the browser complains:\n%s", strings.Join(said, "\n"))
	}
}

// trace asks for the history of a key through the form.
func trace(tab *browsertest.Tab, entry string, args map[string]string) {
	tab.Await(`document.getElementById("entry").options.length`, "2")
	tab.Set("#entry", entry)
	tab.Eval(`document.getElementById("entry").dispatchEvent(new Event("change"))`)
	for name, value := range args {
		tab.Set(`#arguments input[name="`+name+`"]`, value)
	}
	tab.Click("#ask")
}

// TestPage is what an operator sees of a daemon that runs: whether it is fresh, what it does, and why a key was invalidated.
func TestPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t), "")
	d := w.serve()
	testkit.Eventually(t, 30*time.Second, func() error { return d.Live(t.Context()) })
	tab := browsertest.Open(t, 1280, 900)
	tab.Goto("http://" + w.addr + "/")
	if got := tab.Await(word, "FRESH"); got != "FRESH" {
		t.Errorf("the headline is %q", got)
	}
	tab.Await(figures, "lacks nothing that was committed more than")
	tab.Await(figures, " behind the log.")
	tab.Await(`document.title`, "fresh · freshet")
	tab.Await(`document.getElementById("source").innerText`, "reserved")
	tab.Await(`document.getElementById("entries").innerText`, "product:{id}")

	// What happens shows.
	const plots = `[...document.querySelectorAll("#plots svg")].map((s) => s.getAttribute("aria-label")).join("\n")`
	tab.Await(plots, "Behind, last five minutes. lag: now ")
	testkit.Eventually(t, 30*time.Second, func() error {
		for _, path := range []string{"/v1/entries/product/7", "/v1/entries/product/7"} {
			if code, _, _, err := d.Get(t.Context(), path); err != nil || code != http.StatusOK {
				return fmt.Errorf("%d, %w", code, err)
			}
		}
		w.pg.Exec(t, w.url, `UPDATE products SET name = name || '+' WHERE id = 7`)
		if text := tab.Eval(plots); strings.Count(text, "highest 0 /s") > 1 || strings.Contains(text, "nothing yet") { // nothing goes past the cache
			return fmt.Errorf("the plots:\n%s", text)
		}
		return nil
	})
	// What holds at most is not shown as less.
	for expression, want := range map[string]string{"bound(0.31)": "400 ms", "bound(10.31)": "11 s", "bound(599.5)": "10 min", "bound(661)": "12 min", "bound(7201)": "2.1 h", "percent(99.996)": "99.9 %", "percent(0.4)": "0.4 %"} {
		if got := tab.Eval(expression); got != want {
			t.Errorf("%s is %q, want %q", expression, got, want)
		}
	}
	trace(tab, "product", map[string]string{"id": "007"})
	text := tab.Await(timeline, "invalidated")
	for _, want := range []string{"product:7", "UPDATE of public.products where id = 7", "rule 1 (EXACT)", "stored", "The daemon remembers what the log did since"} {
		if !strings.Contains(text, want) {
			t.Errorf("the history lacks %q:\n%s", want, text)
		}
	}
	// What a tab shows that slept for a minute is not of now, until it is answered again.
	if got := tab.Eval(`(answered -= 60000, document.dispatchEvent(new Event("visibilitychange")), document.querySelector(".region .word").textContent)`); got != "NOT KNOWN" {
		t.Errorf("after a minute without an answer the headline is %q", got)
	}
	tab.Await(word, "FRESH")
	// A wrong argument is said, and the address leads to the same key again.
	tab.Set(`#arguments input[name="id"]`, "seven")
	tab.Click("#ask")
	tab.Await(timeline, "Invalid arguments")
	tab.Set(`#arguments input[name="id"]`, "7")
	tab.Click("#ask")
	tab.Await(`location.hash`, "#trace=product&arg.id=7")
	tab.Do(chromedp.Reload())
	tab.Await(timeline, "UPDATE of public.products where id = 7")

	// What rows hold is text, and an argument may be NULL.
	w.pg.Exec(t, w.url, `INSERT INTO notes VALUES ($tag$`+hostile+`$tag$, 'en', 'x')`)
	trace(tab, "note", map[string]string{"id": hostile, "lang": "en"})
	tab.Await(timeline, "id = "+hostile)
	trace(tab, "note", map[string]string{"id": "7"})
	tab.Click("#argument-1-null")
	tab.Click("#ask")
	tab.Await(timeline, "note:7:%-")
	if n := tab.Eval(`document.querySelectorAll("img, iframe, object").length`); n != "0" {
		t.Errorf("a row has put %s elements into the page", n)
	}
	if title := tab.Eval(`document.title`); title == "run" {
		t.Error("a row has run a script")
	}
	quiet(t, tab, "status of 400")
}

// TestNarrow: on a telephone nothing is wider than the window.
func TestNarrow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t), "")
	d := w.serve()
	testkit.Eventually(t, 30*time.Second, func() error { return d.Live(t.Context()) })
	tab := browsertest.Open(t, 375, 700)
	tab.Goto("http://" + w.addr + "/#trace=note&arg.id=" + strings.Repeat("long", 60) + "&arg.lang=en")
	tab.Await(word, "FRESH")
	tab.Await(timeline, "longlong")
	if width := tab.Eval(`document.documentElement.scrollWidth`); width != "375" {
		t.Errorf("the page is %s pixels wide, the window 375", width)
	}
	// No word of the table is broken for want of room: each cell is as wide as its text would like to be.
	const broken = `[...document.querySelectorAll("#entries td, #entries th")].filter((c) => {
		const r = document.createRange(); r.selectNodeContents(c); return new Set([...r.getClientRects()].map((x) => x.top)).size > 1;
	}).map((c) => c.textContent).join(", ")`
	if cells := tab.Eval(broken); cells != "" {
		t.Errorf("broken over lines: %s", cells)
	}
	quiet(t, tab)
}

// TestLostAndFound: a daemon that does not answer is said at once, and what it said before is not shown as if it held; a database that is away
// makes the region NOT FRESH, with the reason. Both are over when they are.
func TestLostAndFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Start(t, pgtest.Options{}), "")
	d := w.serve()
	tab := browsertest.Open(t, 1280, 900)
	tab.Goto("http://" + w.addr + "/")
	testkit.Eventually(t, 30*time.Second, func() error {
		if got := tab.Eval(word); got != "FRESH" {
			return fmt.Errorf("the headline is %q", got)
		}
		return nil
	})
	killed := time.Now()
	d.Kill()
	tab.Await(contact, "The daemon does not answer: it cannot be reached. Everything here is from ")
	if took := time.Since(killed); took > 20*time.Second {
		t.Errorf("it took %s to say that the daemon is gone", took)
	}
	if pace := tab.Eval(`every + " " + patience`); pace != "2000 5000" {
		t.Errorf("it asks every, and waits for, %s ms", pace)
	}
	tab.Eval(`every = 300, patience = 1000`) // the rest need not take as long
	if got, title := tab.Eval(word), tab.Eval(`document.title`); got != "NOT KNOWN" || title != "no answer · freshet" {
		t.Errorf("the headline is %q, the title %q", got, title)
	}
	tab.Await(current, "lag –")
	testkit.Eventually(t, 30*time.Second, func() error { // several times without an answer
		if n := tab.Eval(`samples.filter((s) => s.started === undefined).length`); len(n) == 1 && n < "2" {
			return fmt.Errorf("%s times", n)
		}
		return nil
	})
	if text := tab.Eval(`document.getElementById("plots").innerHTML`); strings.Contains(text, "NaN") {
		t.Error("the plots have figures that are none")
	}
	d = w.serve()
	fresh := func() error {
		if got, said := tab.Eval(word), tab.Eval(contact); got != "FRESH" || said != "" {
			return fmt.Errorf("the headline is %q, and beside it %q", got, said)
		}
		return nil
	}
	testkit.Eventually(t, 30*time.Second, fresh)
	if path := tab.Eval(`document.querySelector("#plots path.s1").getAttribute("d")`); strings.Count(path, "M") < 2 {
		t.Errorf("a plot joins what was before with what came after: %s", path)
	}
	d.Freeze()
	tab.Await(contact, "it has not answered for 1 s")
	d.Thaw()
	testkit.Eventually(t, 30*time.Second, fresh)

	w.pg.Stop(t)
	tab.Await(word, "NOT FRESH")
	tab.Await(`document.querySelector(".region .reason").textContent`, "connecting: ")
	// Without the log nobody knows how far behind it the store is: the figures of before, or 0, would be taken for it.
	if got := tab.Eval(figures); !strings.Contains(got, "How far it is behind the log is not known.") {
		t.Errorf("without the database it says %q", got)
	}
	if got := tab.Eval(`document.getElementById("source").innerText`); strings.Count(got, "when last looked at") != 2 {
		t.Errorf("without the database it says of the slot %q", got)
	}
	if got := tab.Eval(current); !strings.Contains(got, "lag –") || !strings.Contains(got, "staleness bound ") || strings.Contains(got, "staleness bound –") {
		t.Errorf("without the database the plots say %q", got)
	}
	tab.Await(`document.title`, "NOT FRESH")
	w.pg.Start(t)
	testkit.Eventually(t, 60*time.Second, fresh)

	// Paused, it asks nothing.
	tab.Click("#pause")
	tab.Await(contact, "Paused at ")
	tab.Await(word, "FRESH at ")
	tab.Await(`document.title`, "paused · freshet")
	d.Kill()
	before := tab.Eval(`performance.getEntriesByType("resource").length`)
	tab.Do(chromedp.Sleep(time.Second))
	if after := tab.Eval(`performance.getEntriesByType("resource").length`); after != before || !strings.HasPrefix(tab.Eval(word), "FRESH at ") {
		t.Errorf("paused, it went from %s requests to %s", before, after)
	}
	quiet(t, tab, "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED")
}

// TestToken: without the token nothing is shown but the form that asks for it, and the token is kept nowhere but in the tab.
func TestToken(t *testing.T) {
	t.Parallel()
	const token = "right-and-long-enough-to-be-found"
	w := newWorld(t, pgtest.Shared(t), "auth: {token: "+token+"}\n")
	w.serve()
	tab := browsertest.Open(t, 1280, 900)
	tab.Goto("http://" + w.addr + "/")
	tab.Await(`document.getElementById("login").checkVisibility()`, "true")
	if tab.Eval(shown) != "false" {
		t.Error("something is shown without a token")
	}
	enter := func(text string) {
		tab.Set("#token", text)
		tab.Click("#login button")
	}
	for _, wrong := range []string{"wrong", "schlüssel-✓"} {
		enter(wrong)
		tab.Await(refused, "refuses this token")
		if tab.Eval(shown) != "false" {
			t.Error("something is shown with a wrong token")
		}
		tab.Eval(`document.getElementById("refused").textContent = ""`)
	}
	enter(token)
	tab.Await(word, "FRESH")
	tab.Do(chromedp.Reload())
	tab.Await(word, "FRESH")
	trace(tab, "product", map[string]string{"id": "7"})
	tab.Await(timeline, "product:7")
	for _, where := range []string{`document.documentElement.outerHTML`, `location.href`, `document.cookie`, `JSON.stringify(localStorage)`, `document.getElementById("token").value`} {
		if text := tab.Eval(where); strings.Contains(text, token) {
			t.Errorf("the token is in %s", where)
		}
	}
	// A token that is right no more takes back what was said.
	tab.Eval(`sessionStorage.setItem("freshet-token", "other")`)
	tab.Await(refused, "refuses this token")
	if title := tab.Eval(`document.title`); title != "freshet" || tab.Eval(shown) != "false" {
		t.Errorf("with a token that is refused the title is %q", title)
	}
	quiet(t, tab, "status of 401")
}
