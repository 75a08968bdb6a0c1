package whatif

import (
	"fmt"
	"strings"
)

// Text renders the answer for a terminal.
func (a *Answer) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "event %s\n", a.Event)
	fmt.Fprintf(&b, " table %s, replica identity %s\n", a.Table, a.Identity)
	for _, image := range []struct {
		name   string
		fields []Field
	}{{"old", a.Old}, {"new", a.New}} {
		if len(image.fields) > 0 {
			fmt.Fprintf(&b, " %s row in the log: %s\n", image.name, fieldsText(image.fields))
		}
	}
	if len(a.Lost) > 0 {
		fmt.Fprintf(&b, " not in the log: old %s\n", strings.Join(a.Lost, ", "))
	}
	for i := range a.Entries {
		a.Entries[i].text(&b)
	}
	switch {
	case len(a.Entries) == 0 && len(a.Others) == 1: // it may be the only one that was asked for
		fmt.Fprintf(&b, "entry %s does not read the table\n", a.Others[0])
	case len(a.Entries) == 0:
		b.WriteString("no entry reads the table\n")
	case len(a.Others) > 0:
		fmt.Fprintf(&b, "entries that do not read it: %s\n", strings.Join(a.Others, ", "))
	}
	return b.String()
}

func fieldsText(fields []Field) string {
	texts := make([]string, len(fields))
	for i, f := range fields {
		texts[i] = f.Column + "=NULL"
		if f.Value != nil {
			texts[i] = f.Column + "='" + strings.ReplaceAll(*f.Value, "'", "''") + "'"
		}
	}
	return strings.Join(texts, " ")
}

func (e *EntryAnswer) text(b *strings.Builder) {
	verdict := strings.Join(e.Keys, ", ")
	switch {
	case e.Moves != "":
		verdict = "every key"
	case verdict == "":
		verdict = "no key"
		for i := range e.Rules {
			if r := &e.Rules[i]; len(r.Name) > 0 || r.Old.further() || r.New.further() {
				verdict = "see below"
			}
		}
	}
	fmt.Fprintf(b, "entry %s: %s\n", e.Entry, verdict)
	for i := range e.Rules {
		r := &e.Rules[i]
		fmt.Fprintf(b, " rule %d, %s", r.Rule, r.Class)
		if r.Alias != "" {
			fmt.Fprintf(b, " as %s", r.Alias)
		}
		b.WriteString(": ")
		switch {
		case r.Moves != "":
			fmt.Fprintf(b, "every key of the entry: %s", r.Moves)
		case len(r.Name) > 0:
			fmt.Fprintf(b, "it depends on %s, which the event does not name", strings.Join(r.Name, ", "))
		case r.Ignored != "":
			fmt.Fprintf(b, "ignored: %s", r.Ignored)
		default:
			var parts []string
			if r.Old != nil {
				parts = append(parts, "old row "+r.Old.text())
			}
			if r.New != nil {
				parts = append(parts, "new row "+r.New.text())
			}
			b.WriteString(strings.Join(parts, "; "))
		}
		b.WriteString("\n")
		if r.Through != nil {
			fmt.Fprintf(b, "   keys that other tables lead to, as they are now: %s\n", r.Through.text())
		}
		for _, condition := range r.Assumed {
			fmt.Fprintf(b, "   taken to hold, since the event does not say: %s\n", condition)
		}
	}
}

// shown is how many keys are listed for a terminal.
const shown = 10

func (t *Through) text() string {
	list := strings.Join(t.Keys[:min(shown, len(t.Keys))], ", ")
	switch more := len(t.Keys) - shown; {
	case t.Problem != "":
		return t.Problem
	case list == "":
		return "no key"
	case t.More:
		return list + fmt.Sprintf(", and more than %d others", more)
	case more > 0:
		return list + fmt.Sprintf(", and %d others", more)
	}
	return list
}

// further reports that keys are affected which the row does not tell.
func (i *ImageAnswer) further() bool { return i != nil && i.Epoch+i.LookedUp != "" }

func (i *ImageAnswer) text() string {
	switch {
	case i.Key != "":
		return "-> " + i.Key
	case i.Epoch != "":
		return "-> every value that depends on the epoch " + i.Epoch
	case i.LookedUp != "":
		return "-> the keys that the database finds by " + i.LookedUp
	}
	return "ignored: " + i.Ignored
}
