package intent_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/keytext"
)

// TestForm is the form byte for byte, as docs/writing.md has it.
func TestForm(t *testing.T) {
	t.Parallel()
	got, err := intent.Messages("line", [][]keytext.Arg{{{Text: "7"}, {Null: true}}, {{Text: `a"b`}, {Text: "é"}}})
	const want = `{"v":1,"entry":"line","keys":[["7",null],["a\"b","é"]]}`
	if err != nil || len(got) != 1 || string(got[0]) != want {
		t.Errorf("Messages() = %s, %v, want %s", got, err, want)
	}
	if doc, err := os.ReadFile("../../docs/writing.md"); err != nil || !strings.Contains(string(doc), "\n"+want+"\n") {
		t.Errorf("docs/writing.md has another form (%v)", err)
	}
	if got, err := intent.Messages("home", [][]keytext.Arg{{}}); err != nil || fmt.Sprintf("%s", got) != `[{"v":1,"entry":"home","keys":[[]]}]` {
		t.Errorf("without parameters: %s, %v", got, err)
	}
	for _, bad := range []string{"\xff", "a\x00"} {
		if got, err := intent.Messages("line", [][]keytext.Arg{{{Text: bad}}}); err == nil {
			t.Errorf("Messages(%q) = %s", bad, got)
		}
	}
}

func read(content string) (entry string, keys [][]keytext.Arg, err error) {
	m, err := intent.Parse([]byte(content))
	if err != nil {
		return m.Entry, nil, err
	}
	for args, err := range m.Keys() {
		if err != nil {
			return m.Entry, keys, err
		}
		keys = append(keys, append([]keytext.Arg{}, args...))
	}
	return m.Entry, keys, nil
}

func TestParse(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]struct {
		entry, keys, err string
	}{
		`{"v":1,"entry":"e","keys":[["1","a"],[2,null]]}`:                   {entry: "e", keys: `[[{1 false} {a false}] [{2 false} { true}]]`},
		` {"keys" : [ 42, "x", true, 1e3 ], "entry":"e", "v" : 1 } ` + "\n": {entry: "e", keys: `[[{42 false}] [{x false}] [{true false}] [{1e3 false}]]`},
		`{"v":1,"entry":"e","keys":null}`:                                   {entry: "e", keys: `[]`},
		`{"v":1,"entry":"e","keys":[]}`:                                     {entry: "e", keys: `[]`},
		`{"v":1,"entry":"e","keys":[[]]}`:                                   {entry: "e", keys: `[[]]`},
		``:                                                                  {err: "not a JSON object"},
		`term 7`:                                                            {err: "not a JSON object"},
		`[1]`:                                                               {err: "not a JSON object"},
		`{"v":1,"entry":"e","keys":[1]`:                                     {err: "not JSON"},
		`{"v":1,"entry":"e","keys":[1]}}`:                                   {err: "follows"},
		`{"v":1,"entry":"e","keys":[1]}{}`:                                  {err: "follows"},
		`{"v":2,"entry":"e","keys":[1]}`:                                    {err: "v is"},
		`{"v":"1","entry":"e","keys":[1]}`:                                  {err: "v is"},
		`{"entry":"e","keys":[1]}`:                                          {err: "v is"},
		`{"v":1,"keys":[1]}`:                                                {err: "not a name"},
		`{"v":1,"entry":"","keys":[1]}`:                                     {err: "not a name"},
		`{"v":1,"entry":7,"keys":[1]}`:                                      {err: "not a name"},
		`{"v":1,"entry":"e"}`:                                               {entry: "e", err: "no keys"},
		`{"v":1,"entry":"e","key":[1]}`:                                     {err: "not known"},
		`{"v":1,"entry":"e","keys":[1],"keys":[2]}`:                         {err: "twice"},
		`{"v":1,"entry":"e","keys":[1],"entry":"f"}`:                        {err: "twice"},
		`{"v":1,"entry":"e","keys":[1],"tag":1}`:                            {err: "not known"},
		`{"v":1,"entry":"e","keys":{"1":1}}`:                                {entry: "e", err: "not a list"},
		`{"v":1,"entry":"e","keys":[1,[[1]]]}`:                              {entry: "e", keys: `[[{1 false}]]`, err: "a list or an object"},
		"{\"v\":1,\"entry\":\"e\",\"keys\":[\"\xe9\"]}":                     {err: "not UTF-8"},
	} {
		entry, keys, err := read(content)
		if want.keys == "" {
			want.keys = "[]"
		}
		if entry != want.entry || fmt.Sprint(keys) != want.keys || (err == nil) != (want.err == "") || err != nil && !strings.Contains(err.Error(), want.err) {
			t.Errorf("%s: %q %v, %v, want %+v", content, entry, keys, err, want)
		}
	}
}

// TestWhatIsWrittenIsRead: any keys come back, each in some message, and no message is very long.
func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		arg := rapid.Custom(func(t *rapid.T) keytext.Arg {
			if rapid.IntRange(0, 9).Draw(t, "null") == 0 {
				return keytext.Arg{Null: true}
			}
			text := strings.ReplaceAll(rapid.String().Draw(t, "text"), "\x00", "")
			return keytext.Arg{Text: strings.Repeat(text, rapid.SampledFrom([]int{1, 1, 1, 500}).Draw(t, "times"))}
		})
		want := rapid.SliceOfN(rapid.SliceOfN(arg, 2, 2), 0, 20).Draw(t, "keys")
		messages, err := intent.Messages("a name", want)
		if err != nil {
			t.Fatal(err)
		}
		var got [][]keytext.Arg
		for _, m := range messages {
			entry, keys, err := read(string(m))
			if err != nil || entry != "a name" || len(keys) == 0 {
				t.Fatalf("%s: %q, %v", m, entry, err)
			}
			got = append(got, keys...)
		}
		if diff := cmp.Diff(want, got); diff != "" && len(want)+len(got) > 0 {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	many := make([][]keytext.Arg, 100_000)
	for i := range many {
		many[i] = []keytext.Arg{{Text: strconv.Itoa(i)}}
	}
	messages, err := intent.Messages("e", many)
	if err != nil || len(messages) < 10 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	for _, m := range messages {
		if len(m) > 65<<10 {
			t.Errorf("a message of %d bytes", len(m))
		}
	}
}
