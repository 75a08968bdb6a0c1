package intent_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/intent"
)

func readTags(content string) (tags []string, err error) {
	m, err := intent.Parse([]byte(content))
	if err != nil {
		return nil, err
	}
	if m.Scope != intent.OfTags {
		return nil, fmt.Errorf("its scope is %d, of %q", m.Scope, m.Entry)
	}
	for tag, err := range m.Tags() {
		if err != nil {
			return tags, err
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// TestTagForm is the form byte for byte, as docs/writing.md has it.
func TestTagForm(t *testing.T) {
	t.Parallel()
	for tag, want := range map[string]string{"tenant:7": `{"v":1,"tags":["tenant:7"]}`, `a"é`: `{"v":1,"tags":["a\"é"]}`} {
		if got, err := intent.Tagged(tag); err != nil || string(got) != want {
			t.Errorf("Tagged(%q) = %s, %v, want %s", tag, got, err, want)
		}
	}
	const several = `{"v":1,"tags":["tenant:7","a\"é"]}`
	if doc, err := os.ReadFile("../../docs/writing.md"); err != nil || !strings.Contains(string(doc), "\n"+several+"\n") {
		t.Errorf("docs/writing.md has another form (%v)", err)
	}
	if got, err := readTags(several); err != nil || !slices.Equal(got, []string{"tenant:7", `a"é`}) {
		t.Errorf("%s: %q, %v", several, got, err)
	}
	if got, err := intent.Tagged("\xff"); err == nil {
		t.Errorf("of no text: %s", got)
	}
}

func TestParseTags(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]struct{ tags, err string }{
		`{"v":1,"tags":["a","a b:c"]}`:                {tags: `["a" "a b:c"]`},
		` { "tags" : [ "é" ] , "v" : 1 } `:            {tags: `["é"]`},
		`{"v":1,"tags":[]}`:                           {tags: `[]`},
		`{"v":1,"tags":null}`:                         {tags: `[]`},
		`{"v":1,"tags":{"a":1}}`:                      {err: "not a list"},
		`{"v":1,"tags":"a"}`:                          {err: "not a list"},
		`{"v":1,"tags":["a",7]}`:                      {tags: `["a"]`, err: "not a string"},
		`{"v":1,"tags":["a",["b"]]}`:                  {tags: `["a"]`, err: "not a string"},
		`{"v":1,"tags":["a",null]}`:                   {tags: `["a"]`, err: "not a string"},
		`{"v":2,"tags":["a"]}`:                        {err: "v is"},
		`{"v":1,"tags":["a"],"tags":["b"]}`:           {err: "twice"},
		`{"v":1,"tags":["a"],"entry":"e"}`:            {err: "does not go with"},
		`{"v":1,"tags":["a"],"entry":"e","keys":[1]}`: {err: "does not go with"},
		`{"v":1,"tags":["a"],"more":1}`:               {err: "not known"},
		`{"v":1,"tags":["a"],"all":true}`:             {err: "does not go with"},
		`{"v":1,"tags":["a"],"table":"t"}`:            {err: "does not go with"},
		`{"v":1,"entry":"e","keys":[1]}`:              {err: "its scope"},
	} {
		tags, err := readTags(content)
		if want.tags == "" {
			want.tags = "[]"
		}
		if fmt.Sprintf("%q", tags) != want.tags || (err == nil) != (want.err == "") || err != nil && !strings.Contains(err.Error(), want.err) {
			t.Errorf("%s: %q, %v, want %+v", content, tags, err, want)
		}
	}
	// What does not say by its form that it has tags alone may have meant any entry.
	if m, err := intent.Parse([]byte(`{"v":1,"tags":["a"],"entry":"e","keys":[1]}`)); err == nil || m.Entry != "" {
		t.Errorf("tags and keys in one message: entry %q, %v", m.Entry, err)
	}
}
