package rule_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

func TestTemplate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		template string
		args     []keytext.Arg
		want     string
	}{
		{"product:{id}", []keytext.Arg{{Text: "42"}}, "product:42"},
		{"user:{id}:profile", []keytext.Arg{{Text: "a:b"}}, "user:a%3Ab:profile"},
		{"{a}/{b}", []keytext.Arg{{Text: ""}, {Null: true}}, "/%-"},
		{"board", nil, "board"},
		{"t:{x}", []keytext.Arg{{Text: "%-"}}, "t:%25-"},
		{"t:{x}", []keytext.Arg{{Text: "naïve\x00"}}, "t:na%C3%AFve%00"},
	}
	for _, tt := range tests {
		parsed, err := rule.ParseTemplate(tt.template)
		if err != nil {
			t.Errorf("ParseTemplate(%q) error = %v", tt.template, err)
			continue
		}
		if got := string(parsed.Append(nil, tt.args)); got != tt.want {
			t.Errorf("Template(%q).Append(%v) = %q, want %q", tt.template, tt.args, got, tt.want)
		}
	}
}

func TestTemplateRefusals(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]string{
		"":               "empty",
		"a{":             "unmatched {",
		"a}":             "unmatched }",
		"a{}":            "a parameter is a name",
		"a{1x}":          "a parameter is a name",
		"{a}{b}":         "need a separator",
		"{a}-{b}":        "need a separator",
		"{a}%{b}":        "need a separator",
		"{a}:{a}":        "appears twice",
		"user {id}":      "printable ASCII",
		"user:{id}:ü":    "printable ASCII",
		"a:{id}}":        "unmatched }",
		"a:{b{c}}":       "a parameter is a name",
		"line\nfeed:{x}": "printable ASCII",
	} {
		_, err := rule.ParseTemplate(template)
		var problem *rule.TemplateError
		if !errors.As(err, &problem) || !strings.Contains(problem.Problem, want) {
			t.Errorf("ParseTemplate(%q) error = %v, want %q in it", template, err, want)
		}
	}
}

// TestKeysCannotCollide draws templates and arguments from an alphabet of everything that has a meaning: two different
// argument tuples never spell the same key.
func TestKeysCannotCollide(t *testing.T) {
	t.Parallel()
	arg := rapid.Custom(func(t *rapid.T) keytext.Arg {
		if rapid.IntRange(0, 9).Draw(t, "null") == 0 {
			return keytext.Arg{Null: true}
		}
		return keytext.Arg{Text: rapid.StringOfN(rapid.RuneFrom([]rune("a:%-/{}.3AxX~")), 0, 4, -1).Draw(t, "text")}
	})
	literal := rapid.StringOfN(rapid.RuneFrom([]rune("a:%-/.3A~")), 0, 3, -1)
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		template := literal.Draw(t, "l0") + "{p}" + literal.Draw(t, "l1") + "{q}" + literal.Draw(t, "l2")
		parsed, err := rule.ParseTemplate(template)
		if err != nil {
			return
		}
		accepted++
		one := []keytext.Arg{arg.Draw(t, "p"), arg.Draw(t, "q")}
		two := []keytext.Arg{arg.Draw(t, "p'"), arg.Draw(t, "q'")}
		same := one[0] == two[0] && one[1] == two[1]
		a, b := string(parsed.Append(nil, one)), string(parsed.Append(nil, two))
		if (a == b) != same {
			t.Fatalf("template %q: %v spells %q, %v spells %q", template, one, a, two, b)
		}
	})
	if accepted == 0 {
		t.Error("no template was accepted")
	}
}

// TestParseIsTheInverse spells keys with any arguments and reads them back; and whatever else is read is spelled so.
func TestParseIsTheInverse(t *testing.T) {
	t.Parallel()
	arg := rapid.Custom(func(t *rapid.T) keytext.Arg {
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			return keytext.Arg{Null: true}
		case 1:
			return keytext.Arg{Text: string(rapid.SliceOfN(rapid.Byte(), 0, 6).Draw(t, "bytes"))}
		}
		return keytext.Arg{Text: rapid.StringOfN(rapid.RuneFrom([]rune("a:%-/{}.3AxX~ é")), 0, 5, -1).Draw(t, "text")}
	})
	literal := rapid.StringOfN(rapid.RuneFrom([]rune("a:%-/.3A~")), 0, 4, -1)
	accepted, strangers := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(0, 3).Draw(t, "parameters")
		parts := []string{literal.Draw(t, "literal")}
		for i := range count {
			parts = append(parts, "{p"+strconv.Itoa(i)+"}", literal.Draw(t, "literal"))
		}
		text := strings.Join(parts, "")
		template, err := rule.ParseTemplate(text)
		if err != nil {
			return
		}
		accepted++
		args := make([]keytext.Arg, count)
		for i := range args {
			args[i] = arg.Draw(t, "argument")
		}
		key := string(template.Append(nil, args))
		if got, ok := template.Parse(key); !ok || !slices.Equal(got, args) {
			t.Fatalf("template %q: Parse(%q) = %v, %t, want %v", text, key, got, ok, args)
		}
		// A key with a byte more, less or changed is either no key, or the key of what is read from it.
		at := rapid.IntRange(0, len(key)).Draw(t, "at")
		other := key[:at] + rapid.SampledFrom([]string{"", ":", "%", "a", "%41", "%3a", "%-", "é"}).Draw(t, "put") +
			key[min(len(key), at+rapid.IntRange(0, 2).Draw(t, "cut")):]
		if got, ok := template.Parse(other); !ok {
			strangers++
		} else if again := string(template.Append(nil, got)); again != other {
			t.Fatalf("template %q: Parse(%q) = %v, which spells %q", text, other, got, again)
		}
	})
	if accepted == 0 || strangers == 0 {
		t.Errorf("%d templates, %d texts that are no keys: the test is empty", accepted, strangers)
	}
}

func entry() *rule.Entry {
	return &rule.Entry{
		Name: "product", Definition: "d", Key: "product:{id}", Params: []rule.Param{{Name: "id", Type: keytext.Int8}},
		SQL: "SELECT 1", Result: rule.One,
		Rules: []rule.Rule{{
			Schema: "public", Table: "products", Bind: []string{"id"}, Columns: []string{"id", "price"},
			Where: []rule.Condition{{Column: "gone", Op: rule.In, Type: keytext.Bool, Values: []string{"f"}}},
		}},
	}
}

// TestHash checks that the version moves with everything that decides what a value means, and with nothing else.
func TestHash(t *testing.T) {
	t.Parallel()
	base := entry().Hash()
	if len(base) != 16 {
		t.Errorf("Hash() = %q, want 16 digits", base)
	}
	same := entry()
	same.Version, same.Activation, same.Suspended = "v", "a", "why"
	if got := same.Hash(); got != base {
		t.Errorf("Hash() changed to %q with the live name", got)
	}
	for name, change := range map[string]func(e *rule.Entry){
		"name":       func(e *rule.Entry) { e.Name = "other" },
		"definition": func(e *rule.Entry) { e.Definition = "other" },
		"key":        func(e *rule.Entry) { e.Key = "p:{id}" },
		"type":       func(e *rule.Entry) { e.Params[0].Type = keytext.String },
		"sql":        func(e *rule.Entry) { e.SQL = "SELECT 2" },
		"result":     func(e *rule.Entry) { e.Result = rule.Many },
		"bind":       func(e *rule.Entry) { e.Rules[0].Bind[0] = "price" },
		"columns":    func(e *rule.Entry) { e.Rules[0].Columns = nil },
		"where":      func(e *rule.Entry) { e.Rules[0].Where[0].Values[0] = "t" },
	} {
		e := entry()
		change(e)
		if e.Hash() == base {
			t.Errorf("Hash() stays the same when %s changes", name)
		}
	}
}

func TestDigest(t *testing.T) {
	t.Parallel()
	d := rule.Declared{Name: "a", Key: "a:{id}", Query: "SELECT 1", Result: rule.One}
	base := d.Digest()
	d.Query = "SELECT 2"
	if d.Digest() == base {
		t.Error("another query has the same digest")
	}
}

func TestRoster(t *testing.T) {
	t.Parallel()
	r := &rule.Roster{
		Format: rule.RosterFormat, Generation: "0123456789abcdef", Term: "00000001.0000000000000001", Revision: 7,
		Entries: map[string]*rule.Entry{"product": entry()},
	}
	got, err := rule.ParseRoster(r.Text())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("ParseRoster(Text()) differs (-want +got):\n%s", diff)
	}
	if _, err := rule.ParseRoster([]byte(`{"format":3}`)); !errors.Is(err, rule.ErrFormat) {
		t.Errorf("ParseRoster of format 3: %v", err)
	}
	for _, text := range []string{"", "{", `{"format":3}`, "[]"} {
		if _, err := rule.ParseRoster([]byte(text)); err == nil {
			t.Errorf("ParseRoster(%q) succeeded", text)
		}
	}
	e := entry()
	e.Version, e.Activation = "v", "a"
	if got, want := rule.KeyPrefix("shop", "g", e), "f:shop:g:product.v.a:"; got != want {
		t.Errorf("KeyPrefix() = %q, want %q", got, want)
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	own, earlier, other := entry(), entry(), entry()
	own.Definition, earlier.Definition, other.Name = "new", "old", "other"
	r := &rule.Roster{Entries: map[string]*rule.Entry{"product": own}, Retained: []*rule.Entry{earlier, other}}
	for _, tt := range []struct {
		name, definition string
		want             *rule.Entry
	}{
		{own.Name, "new", own}, {own.Name, "old", earlier}, {own.Name, "older", nil}, {"other", other.Definition, other}, {"other", "new", nil},
	} {
		if got := r.Version(tt.name, tt.definition); got != tt.want {
			t.Errorf("Version(%s, %s) = %+v", tt.name, tt.definition, got)
		}
	}
	count := 0
	for range r.Versions() {
		count++
		if count == 2 {
			break
		}
	}
	for range r.Versions() {
		count++
	}
	if count != 5 {
		t.Errorf("Versions yielded %d, want 2 and 3", count)
	}
}

// TestHashIsOfThePlanAlone: what the roster says besides must not move the version, and with it lose the cache.
func TestHashIsOfThePlanAlone(t *testing.T) {
	t.Parallel()
	e := entry()
	base := e.Hash()
	e.Version, e.Activation, e.Suspended = "v", "a", "why"
	e.Declared, e.Keep, e.Retained = &rule.Declared{Name: "x"}, 1, 2
	if e.Hash() != base {
		t.Error("the version moved")
	}
}

// TestDeclaredComesBack: what a roster says of a declaration is the declaration, also where its list of dependencies is empty, which a
// daemon that has another file plans it from; and its digest is that of the same JSON as ever.
func TestDeclaredComesBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		d    rule.Declared
		text string
	}{
		{rule.Declared{Name: "a", Key: "a:{id}", Query: "SELECT 1", Result: rule.One}, `{"name":"a","key":"a:{id}","query":"SELECT 1","result":"one"}`},
		{rule.Declared{Name: "b", Key: "b:{id}", Result: rule.One, DependsOn: []rule.Dependency{}}, `{"name":"b","key":"b:{id}","result":"one"}`},
		{
			rule.Declared{Name: "c", Key: "c:{id}", Result: rule.Many, DependsOn: []rule.Dependency{{Table: "t", Key: "{id}"}}, Tags: rule.TagsByHand},
			`{"name":"c","key":"c:{id}","result":"many","depends_on":[{"table":"t","key":"{id}"}],"tags":"by_hand"}`,
		},
	} {
		written := &rule.Roster{Format: rule.RosterFormat, Entries: map[string]*rule.Entry{tt.d.Name: {Name: tt.d.Name, Definition: tt.d.Digest(), Declared: &tt.d}}}
		if text := string(written.Text()); !strings.Contains(text, `"declared":`+tt.text) {
			t.Errorf("entry %s: the roster has %s, want %s in it", tt.d.Name, text, tt.text)
		}
		read, err := rule.ParseRoster(written.Text())
		if err != nil {
			t.Fatal(err)
		}
		got := read.Entries[tt.d.Name].Declared
		if diff := cmp.Diff(&tt.d, got); diff != "" { // which tells nil from empty
			t.Errorf("entry %s (-written +read):\n%s", tt.d.Name, diff)
		}
		if got.Digest() != tt.d.Digest() {
			t.Errorf("entry %s: it comes back with another digest", tt.d.Name)
		}
	}
}
