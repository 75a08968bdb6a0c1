package intent

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Scope is how much a message means.
type Scope uint8

// The scopes of a message. Those from OfEntry to Everything are for what somebody invalidates by hand.
const (
	OfKeys     Scope = iota // the keys that it lists
	OfEntry                 // every key of one entry
	OfTable                 // every key of the entries that read a table
	Everything              // every key of every entry
	OfTags                  // every key whose value is tied to one of the tags that it lists
)

// Table is a table as the catalog spells it, without quotes.
type Table struct{ Schema, Name string }

// defaultSchema is the one of a table that is named without any, as in the configuration file.
const defaultSchema = "public"

// Whole is the message that means every key of an entry.
func Whole(entry string) (json.RawMessage, error) {
	name, err := quote(entry)
	if err != nil {
		return nil, err
	}
	return append(append([]byte(`{"v":`+version+`,"entry":`), name...), `,"all":true}`...), nil
}

// Reading is the message that means every key of the entries that read a table.
func Reading(t Table) (json.RawMessage, error) {
	schema, err := quote(t.Schema)
	if err != nil {
		return nil, err
	}
	name, err := quote(t.Name)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{"v":%s,"schema":%s,"table":%s}`, version, schema, name), nil
}

// All is the message that means everything.
func All() json.RawMessage { return json.RawMessage(`{"v":` + version + `,"all":true}`) }

func (m *Message) takeTable(fields map[string]json.RawMessage) error {
	m.Scope, m.Table.Schema = OfTable, defaultSchema
	if json.Unmarshal(fields["table"], &m.Table.Name) != nil || m.Table.Name == "" {
		return errors.New("table is not a name")
	}
	if schema, found := fields["schema"]; found && (json.Unmarshal(schema, &m.Table.Schema) != nil || m.Table.Schema == "") {
		return errors.New("schema is not a name")
	}
	return only(fields, "v", "schema", "table")
}

// only refuses fields that say otherwise than the others do.
func only(fields map[string]json.RawMessage, names ...string) error {
	for name := range fields {
		if !slices.Contains(names, name) {
			return fmt.Errorf("field %.40q does not go with the others", name)
		}
	}
	return nil
}
