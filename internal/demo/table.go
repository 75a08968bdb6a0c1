package demo

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// tableWidths are the columns of the table, which fits into 100 columns with the gaps between them.
func tableWidths() []int { return []int{20, 23, 24, 21, 4} }

const columnGap = "  "

// Table writes the report for people.
func (r *Report) Table(w io.Writer) error {
	var b strings.Builder
	row(&b, "step", "usual cache-aside code", "freshet", "measured", "held")
	width := 0
	for _, column := range tableWidths() {
		width += column + len(columnGap)
	}
	rule := strings.Repeat("-", width-len(columnGap)) + "\n"
	b.WriteString(rule)
	for _, s := range r.Steps {
		held := "yes"
		if !s.Held {
			held = "NO"
		}
		row(&b, s.Step+" "+s.Title, s.Plain, s.Freshet, s.Measured, held)
		for _, reason := range s.Reasons {
			for _, line := range wrap("not held: "+reason, width-len(columnGap)) {
				b.WriteString(line + "\n")
			}
		}
		b.WriteString(rule)
	}
	gateway, library := r.total()
	fmt.Fprintf(&b, "read beside it all: gateway %s\n                    library %s\n", gateway.text(), library.text())
	verdict := "every step held"
	if !r.OK {
		verdict = "NOT every step held"
	}
	fmt.Fprintf(&b, "%s; PostgreSQL %s, Redis %s, %.0f s\n", verdict, r.Postgres, r.Redis, r.Seconds)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// total adds up the background readers of all steps.
func (r *Report) total() (gateway, library Counts) {
	for _, s := range r.Steps {
		gateway.add(s.Reads.Gateway)
		library.add(s.Reads.Library)
	}
	return gateway, library
}

func (c *Counts) add(other Counts) {
	c.Reads += other.Reads
	c.Hits += other.Hits
	c.Errors += other.Errors
	c.Stale += other.Stale
	c.StaleMS = max(c.StaleMS, other.StaleMS)
	c.Untrue += other.Untrue
}

func (c *Counts) text() string {
	text := fmt.Sprintf("%d reads", c.Reads)
	if c.Hits > 0 {
		text += fmt.Sprintf(" (%.0f%% hits)", 100*float64(c.Hits)/float64(c.Reads))
	}
	return text + fmt.Sprintf(", %d without an answer", c.Errors)
}

// row writes one row of the table; a cell that is too long goes on below.
func row(b *strings.Builder, cells ...string) {
	widths := tableWidths()
	columns := make([][]string, len(cells))
	height := 0
	for i, cell := range cells {
		columns[i] = wrap(cell, widths[i])
		height = max(height, len(columns[i]))
	}
	for line := range height {
		var text strings.Builder
		for i, column := range columns {
			cell := ""
			if line < len(column) {
				cell = column[line]
			}
			text.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)) + columnGap)
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
}

// wrap breaks a text between words into lines of the width; a longer word is cut.
func wrap(text string, width int) []string {
	var (
		lines []string
		line  string
	)
	for word := range strings.FieldsSeq(text) {
		for utf8.RuneCountInString(word) > width {
			if line != "" {
				lines, line = append(lines, line), ""
			}
			runes := []rune(word)
			lines, word = append(lines, string(runes[:width])), string(runes[width:])
		}
		switch {
		case word == "":
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
