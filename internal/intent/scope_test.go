package intent_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/intent"
)

// TestScopes is the form of what means more than single keys, byte for byte, as docs/writing.md has it, and that it is read
// as it was meant.
func TestScopes(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/writing.md")
	if err != nil {
		t.Fatal(err)
	}
	whole, err := intent.Whole("rate")
	if err != nil {
		t.Fatal(err)
	}
	reading, err := intent.Reading(intent.Table{Schema: "public", Name: "rates"})
	if err != nil {
		t.Fatal(err)
	}
	for want, is := range map[string]struct {
		text  []byte
		means string
	}{
		`{"v":1,"entry":"rate","all":true}`:              {whole, "rate/1//"},
		`{"v":1,"schema":"public","table":"rates"}`:      {reading, "/2/public/rates"},
		`{"v":1,"all":true}`:                             {intent.All(), "/3//"},
		` {"table" : "r\u0061tes", "v":1}`:               {nil, "/2/public/rates"},
		`{"v":1,"table":"Odd \"name\".x","schema":"a."}`: {nil, `/2/a./Odd "name".x`},
	} {
		if is.text == nil {
			is.text = []byte(want)
		} else if !strings.Contains(string(doc), "\n"+want+"\n") {
			t.Errorf("docs/writing.md does not have %s", want)
		}
		m, err := intent.Parse(is.text)
		if got := fmt.Sprintf("%s/%d/%s/%s", m.Entry, m.Scope, m.Table.Schema, m.Table.Name); string(is.text) != want || err != nil || got != is.means {
			t.Errorf("%s is %s, read as %s, %v", is.text, is.means, got, err)
		}
	}
	for _, bad := range []string{"", "\xff", "a\x00"} {
		if text, err := intent.Whole(bad); err == nil && bad != "" {
			t.Errorf("Whole(%q) = %s", bad, text)
		}
		if text, err := intent.Reading(intent.Table{Schema: bad, Name: "t"}); err == nil && bad != "" {
			t.Errorf("Reading(%q) = %s", bad, text)
		}
	}
}

// TestScopesThatContradict: what cannot be meant is an error, which names the entry where nothing but that can have been meant.
func TestScopesThatContradict(t *testing.T) {
	t.Parallel()
	for content, entry := range map[string]string{
		`{"v":1,"entry":"e","all":false}`:               "e",
		`{"v":1,"entry":"e","all":1}`:                   "e",
		`{"v":1,"entry":"e","all":true,"keys":[1]}`:     "e",
		`{"v":1,"all":false}`:                           "",
		`{"v":1,"all":true,"keys":[1]}`:                 "",
		`{"v":1,"table":"t","all":true}`:                "",
		`{"v":1,"table":"t","entry":"e"}`:               "",
		`{"v":1,"table":"t","entry":"e","keys":[1]}`:    "",
		`{"v":1,"table":""}`:                            "",
		`{"v":1,"table":7}`:                             "",
		`{"v":1,"table":"t","schema":""}`:               "",
		`{"v":1,"schema":"s"}`:                          "",
		`{"v":1,"schema":"s","entry":"e","keys":["1"]}`: "",
		`{"v":1,"schema":"s","all":true}`:               "",
	} {
		if m, err := intent.Parse([]byte(content)); err == nil || m.Entry != entry {
			t.Errorf("Parse(%s) = %+v, %v", content, m, err)
		}
	}
}
