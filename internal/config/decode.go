package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

var errReference = errors.New("a reference to the environment is ${NAME} or ${NAME:-default}; a literal ${ is written $${")

// decoder fills a Config from the syntax tree of a file. It goes on after an error, so that all of them are reported.
type decoder struct {
	*places
	lookup  func(string) (string, bool)
	lenient func(path string) bool // values that nobody will use: an unset variable in them is no error
	anchors map[string]ast.Node
	errs    []error
}

// parse reads a file into a Config, without any judgement of what it says.
func parse(file string, text []byte, lookup func(string) (string, bool), lenient func(string) bool) (*Config, error) {
	source := strings.TrimPrefix(string(text), "\uFEFF")
	d := &decoder{
		places:  &places{file: file, lines: strings.Split(source, "\n"), at: map[string]place{}, raw: map[string]string{}},
		lookup:  lookup,
		lenient: lenient,
		anchors: map[string]ast.Node{},
	}
	body, err := d.body(source)
	if err != nil {
		return nil, err
	}
	c := &Config{places: d.places}
	d.value(body, reflect.ValueOf(c).Elem(), "")
	for _, e := range Errors(errors.Join(d.errs...)) { // now that all secrets are known, those behind it in its line as well
		e.Excerpt = d.excerpt(place{e.Line, e.Column})
	}
	return c, errors.Join(d.errs...)
}

// body parses the one document of a file.
func (d *decoder) body(source string) (ast.Node, error) {
	for i, line := range d.lines {
		if bad := strings.IndexFunc(line, func(r rune) bool { return r == '\uFFFD' || r < ' ' && r != '\t' && r != '\r' }); bad >= 0 {
			return nil, d.errorIn(place{i + 1, len([]rune(line[:bad])) + 1}, "the file holds a control character or is not UTF-8", "save it as UTF-8 text")
		}
	}
	safe, bad := hideReferences(source)
	if bad >= 0 {
		line := strings.Count(source[:bad], "\n")
		column := len([]rune(source[strings.LastIndexByte(source[:bad], '\n')+1 : bad]))
		return nil, d.errorIn(place{line + 1, column + 1}, "the file holds a character of the private area U+E000 to U+E07F", "remove it")
	}
	file, err := parser.ParseBytes([]byte(safe), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var syntax yaml.Error
		if !errors.As(err, &syntax) || syntax.GetToken() == nil {
			return nil, &Error{File: d.file, Message: "parse YAML: " + showReferences(err.Error())}
		}
		d.unread = true
		return nil, d.errorIn(placeOf(syntax.GetToken()), "not valid YAML: "+showReferences(syntax.GetMessage()), "")
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		return nil, &Error{File: d.file, Message: "the file is empty", Hint: "freshet config sample prints a file to start from"}
	case 1:
		return bodies[0], nil
	}
	return nil, d.errorIn(placeOf(bodies[1].GetToken()), "a second YAML document", "keep everything in one document")
}

func placeOf(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{}
	}
	return place{line: t.Position.Line, column: t.Position.Column}
}

func (d *decoder) fail(node ast.Node, hint, format string, args ...any) {
	d.errs = append(d.errs, d.errorIn(placeOf(node.GetToken()), fmt.Sprintf(format, args...), hint))
}

// resolve follows anchors and aliases.
func (d *decoder) resolve(node ast.Node) ast.Node {
	for range 10 { // an alias within its own anchor has no end
		switch n := node.(type) {
		case *ast.AnchorNode:
			d.anchors[n.Name.GetToken().Value] = n.Value
			node = n.Value
		case *ast.AliasNode:
			target, ok := d.anchors[n.Value.GetToken().Value]
			if !ok {
				d.fail(n, "", "no anchor &%s stands before this alias", n.Value.GetToken().Value)
				return nil
			}
			node = target
		case *ast.TagNode:
			d.fail(n, "remove the tag", "YAML tags are not allowed")
			return nil
		default:
			return node
		}
	}
	d.fail(node, "", "the alias does not end")
	return nil
}

// value decodes a node into v.
func (d *decoder) value(node ast.Node, v reflect.Value, path string) {
	if _, ok := d.at[path]; !ok && path != "" {
		d.at[path] = placeOf(node.GetToken())
	}
	node = d.resolve(node)
	if node == nil {
		return
	}
	if v.Kind() == reflect.Pointer {
		target := reflect.New(v.Type().Elem())
		d.value(node, target.Elem(), path)
		v.Set(target)
		return
	}
	if _, null := node.(*ast.NullNode); null {
		return // "source: {postgres: }" is a source with nothing but defaults; what is required is checked later
	}
	if on, ok := reflect.TypeAssert[*OnChange](v.Addr()); ok {
		if m, isMap := node.(*ast.MappingNode); isMap {
			d.onChange(m, on, path)
			return
		}
	}
	_, ownForm := reflect.TypeAssert[encoding.TextMarshaler](v.Addr())
	switch {
	case v.Kind() == reflect.Struct && !ownForm:
		d.structure(node, v, path)
	case v.Kind() == reflect.Map:
		d.mapping(node, v, path)
	case v.Kind() == reflect.Slice:
		d.list(node, v, path)
	default:
		d.scalar(node, v, path)
	}
}

// onChange decodes {serve_stale: {for: 2s}}.
func (d *decoder) onChange(node *ast.MappingNode, on *OnChange, path string) {
	var form struct {
		ServeStale struct {
			For time.Duration `yaml:"for"`
		} `yaml:"serve_stale"`
	}
	d.structure(node, reflect.ValueOf(&form).Elem(), path)
	d.at[path] = placeOf(node.GetToken())
	on.Kind, on.For = ServeStale, form.ServeStale.For
}

// pairs are the keys and values of a mapping, after refusing keys that stand twice.
func (d *decoder) pairs(node ast.Node, path string) ([]*ast.MappingValueNode, bool) {
	m, ok := node.(*ast.MappingNode)
	if !ok {
		d.hideAll(node, path)
		d.fail(node, "", "%s is a mapping (key: value)", orFile(path))
		return nil, false
	}
	seen := make(map[string]int, len(m.Values))
	var values []*ast.MappingValueNode
	for _, pair := range m.Values {
		key := pair.Key
		if _, merge := key.(*ast.MergeKeyNode); merge {
			d.fail(key, "write the keys out", "merge keys (<<) are not allowed")
			continue
		}
		switch key.(type) {
		case *ast.StringNode, *ast.IntegerNode, *ast.BoolNode, *ast.NullNode, *ast.FloatNode:
		default:
			d.fail(key, "", "a key is a plain word")
			continue
		}
		name := keyName(pair)
		if line, twice := seen[name]; twice {
			d.fail(key, "remove one of the two", "key %q stands twice, first in line %d", name, line)
			continue
		}
		seen[name] = placeOf(key.GetToken()).line
		values = append(values, pair)
	}
	return values, true
}

func keyName(pair *ast.MappingValueNode) string {
	return showReferences(pair.Key.GetToken().Value)
}

func orFile(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (d *decoder) structure(node ast.Node, v reflect.Value, path string) {
	pairs, ok := d.pairs(node, path)
	if !ok {
		return
	}
	fields := map[string]reflect.StructField{}
	var names []string
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if name := yamlName(field); name != "" {
			fields[name] = field
			names = append(names, name)
		}
	}
	for _, pair := range pairs {
		name := keyName(pair)
		field, known := fields[name]
		if !known {
			hint := "known here: " + strings.Join(names, ", ")
			if near := nearest(name, names); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			d.hideAll(pair.Value, join(path, name))
			d.fail(pair.Key, hint, "unknown key %q in %s", name, orFile(path))
			continue
		}
		inner := join(path, name)
		d.at[inner] = placeOf(pair.Key.GetToken())
		if _, scalar := pair.Value.(ast.ScalarNode); scalar {
			d.at[inner] = placeOf(pair.Value.GetToken())
		}
		before := len(d.errs)
		d.value(pair.Value, v.FieldByIndex(field.Index), inner)
		if what := field.Tag.Get("later"); what != "" {
			d.errs = d.errs[:before]
			d.fail(pair.Key, "remove "+name, "%s: not supported by this version: %s", inner, what)
		}
	}
}

// yamlName is the key of a field, empty for one that is not in the file.
func yamlName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
	if name == "-" || !field.IsExported() {
		return ""
	}
	return name
}

func (d *decoder) mapping(node ast.Node, v reflect.Value, path string) {
	pairs, ok := d.pairs(node, path)
	if !ok {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, pair := range pairs {
		name := keyName(pair)
		inner := join(path, name)
		d.at[inner] = placeOf(pair.Key.GetToken())
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(pair.Value, element, inner)
		v.SetMapIndex(reflect.ValueOf(name), element)
	}
}

func (d *decoder) list(node ast.Node, v reflect.Value, path string) {
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		d.hideAll(node, path)
		d.fail(node, "", "%s is a list ([a, b], or lines that begin with -)", path)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, element := range seq.Values {
		d.value(element, v.Index(i), path+"."+strconv.Itoa(i))
	}
}

// scalar decodes one value from its text, with the environment put in.
func (d *decoder) scalar(node ast.Node, v reflect.Value, path string) {
	raw, ok := scalarText(node)
	if !ok {
		d.hideAll(node, path)
		d.fail(node, "", "%s is one value, not a mapping or a list", path)
		return
	}
	target := v.Addr().Interface()
	switch target.(type) {
	case *Secret:
		d.hide(raw, func(string) string { return mask })
	case *URL:
		d.hide(raw, maskURL)
	}
	text, at, err := expand(raw, d.lookup)
	if err != nil {
		var unset *unsetError
		if errors.As(err, &unset) && d.lenient != nil && d.lenient(path) {
			return
		}
		hint := ""
		if unset != nil {
			hint = fmt.Sprintf("set it, or give a default: ${%s:-…}", unset.name)
		}
		where := placeOf(node.GetToken())
		if s, plain := node.(*ast.StringNode); plain && s.Token.Type == token.StringType {
			where.column += len([]rune(raw[:at]))
		}
		d.errs = append(d.errs, d.errorIn(where, path+": "+err.Error(), hint))
		return
	}
	if raw != text {
		d.raw[path] = raw
	}
	switch known, err := scalar(text, target); {
	case err != nil && raw != text:
		d.fail(node, "", "%s: the value of %s is not valid: %v", path, raw, innermost(err))
		return
	case err != nil:
		d.fail(node, "", "%s: %v", path, err)
		return
	case known:
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			d.fail(node, "", "%s is a whole number", path)
			return
		}
		v.SetInt(int64(n))
	default:
		panic(fmt.Sprintf("config: no form for %s at %s", v.Type(), path)) // a field of a new type: every test fails
	}
}

// hideAll hides what stands where it is not understood, and could be a secret that was meant for another place.
func (d *decoder) hideAll(node ast.Node, path string) {
	if section, _, _ := strings.Cut(path, "."); harmless(section) {
		return
	}
	ast.Walk(scalars(func(text string) { d.hide(text, func(string) string { return mask }) }), node)
}

// scalars is called with each value of a tree, and not with its keys.
type scalars func(text string)

// Visit implements ast.Visitor.
func (s scalars) Visit(node ast.Node) ast.Visitor {
	if pair, ok := node.(*ast.MappingValueNode); ok {
		ast.Walk(s, pair.Value)
		return nil
	}
	if text, ok := scalarText(node); ok {
		s(text)
	}
	return s
}

// hide remembers a secret, so that no excerpt shows it. It may span lines. A reference is no secret.
func (d *decoder) hide(raw string, show func(string) string) {
	for line := range strings.Lines(raw) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "${") {
			d.secrets = append(d.secrets, secretText{text: line, shown: show(line)})
		}
	}
}

// innermost drops what wraps an error, and with it the value that the wrapping quotes.
func innermost(err error) error {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}

// scalarText is a scalar's text as the file spells it, references included.
func scalarText(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return showReferences(n.Value), true
	case *ast.LiteralNode:
		return showReferences(n.Value.Value), true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return showReferences(n.GetToken().Value), true
	}
	return "", false
}

// nearest is the known name that a wrong one was meant to be, empty when none is close.
func nearest(name string, known []string) string {
	best, distance := "", 1+len(name)/3
	for _, k := range known {
		if d := editDistance(strings.ToLower(name), k); d <= distance && (best == "" || d < distance) {
			best, distance = k, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours.
func editDistance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = slices.Min([]int{rows[i-1][j] + 1, rows[i][j-1] + 1, rows[i-1][j-1] + cost})
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
