package route

// What somebody invalidates by hand, and is more than single keys, moves the versions of the entries concerned, as a
// TRUNCATE does. Each function reports whether there is such a thing; of what there is not, nothing is cached.

func byHand() string { return "invalidated by hand" }

// Whole moves every version of an entry.
func (r *Router) Whole(entry string, out *Keys) (known bool) {
	for _, t := range r.targets[entry] {
		out.move(t.entry, byHand)
	}
	return len(r.targets[entry]) > 0
}

// Reading moves the versions of all entries that read a table.
func (r *Router) Reading(schema, name string, out *Keys) (known bool) {
	read := table{schema, name}
	r.moveAll(read, byHand(), out)
	return len(r.tables[read]) > 0
}

// Everything moves all versions of all entries.
func (r *Router) Everything(out *Keys) (known bool) {
	for entry := range r.targets {
		r.Whole(entry, out)
	}
	return true
}
