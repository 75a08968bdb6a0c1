package rule

// RowVersion says how a load can find out that nothing has changed without making the value, for conditional reads. It is
// declared by the entry, or physical: which versions of which rows the value is made of. docs/protocol.md says when
// physical ones prove something.
type RowVersion struct {
	// SQL is the entry's, with one more column after its own: freshet_version, text. A physical one has another after
	// that: freshet_xids, int8[], the ids of the transactions that wrote the rows, 32 bits of each.
	SQL string `json:"sql"`
	// Columns are the entry's own, in their order.
	Columns []string `json:"columns"`
	// Tables are those whose rows a physical version is of, quoted as SQL wants it. Empty: the version is declared.
	Tables []string `json:"tables,omitempty"`
}

// Physical reports whether the version is that of the rows as they are stored.
func (v *RowVersion) Physical() bool { return len(v.Tables) > 0 }
