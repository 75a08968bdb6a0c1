// Package ddl is what an event trigger in the database says about DDL: a logical message in the transaction that does
// it, and so in the log at the place where it takes effect.
package ddl

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Prefix is that of the messages.
const Prefix = "freshet.ddl"

// Message says what one statement did.
type Message struct {
	Tag     string   `json:"tag"` // such as ALTER TABLE
	Objects []Object `json:"objects"`
	More    bool     `json:"more,omitempty"` // there are others, which are not named
}

// Object is one that the statement made, altered or dropped.
type Object struct {
	Class string `json:"class"` // the catalog that it is in, such as pg_class
	OID   uint32 `json:"oid"`
	Type  string `json:"type"` // such as table
	Name  string `json:"name"` // its identity as PostgreSQL prints it, quoted where need be
	// Above are the tables that it is a partition of.
	Above []uint32 `json:"above,omitempty"`
}

// Parse reads a message.
func Parse(content []byte) (Message, error) {
	var m Message
	if err := json.Unmarshal(content, &m); err != nil {
		return Message{}, fmt.Errorf("parse a message about DDL: %w", err)
	}
	return m, nil
}

// Known says what is known of the objects that planned entries stand on.
type Known struct {
	OIDs  map[uint32]bool // relations, and partitions below them
	Names map[string]bool // of the tables, by Plain
}

// Concerns reports whether the statement may have changed what an entry's values are read from. A relation does not that is
// neither known itself, nor below one that is, nor of the name of one; of anything else, such as a type or a function, it is
// not known who uses it.
func (m *Message) Concerns(k *Known) bool {
	if m.More || len(m.Objects) == 0 || k == nil {
		return true
	}
	for i := range m.Objects {
		o := &m.Objects[i]
		if o.Class != "pg_class" || k.OIDs[o.OID] || k.Names[Plain(o.Name)] {
			return true
		}
		for _, above := range o.Above {
			if k.OIDs[above] {
				return true
			}
		}
	}
	return false
}

// Plain is a name without its quotes: names that differ in nothing else are taken for one another.
func Plain(name string) string { return strings.ReplaceAll(name, `"`, "") }
