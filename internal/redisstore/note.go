package redisstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/store"
)

// noteKey is where readers note what came of their loads: a stream, in the first lane.
func (s *Store) noteKey() string { return s.laneKey(0, "notes") }

// longestNote bounds what is believed of a field of a note: any client may write one.
const longestNote = 4 << 10

// Note appends notes. The oldest go.
func (s *Store) Note(ctx context.Context, notes []store.Note) error {
	to, err := s.toLane(0)
	if err != nil {
		return fmt.Errorf("note what came of loads: %w", err)
	}
	key := s.noteKey()
	commands := make([]rueidis.Completed, 0, len(notes)+1)
	for i := range notes {
		fields := s.client.B().Xadd().Key(key).Maxlen().Almost().Threshold(strconv.Itoa(store.MostNotes)).Id("*").FieldValue()
		for _, f := range noteFields(&notes[i]) {
			fields = fields.FieldValue(f[0], f[1])
		}
		commands = append(commands, fields.Build())
	}
	commands = append(commands, s.client.B().Pexpire().Key(key).Milliseconds(store.NotesLast.Milliseconds()).Build())
	for _, reply := range to.client.DoMulti(ctx, commands...) {
		if err := reply.Error(); err != nil {
			return fmt.Errorf("note what came of loads: %w", to.typed(err))
		}
	}
	return nil
}

// noteFields are the fields of a note, without those that say nothing.
func noteFields(n *store.Note) [][2]string {
	fields := [][2]string{{"at", strconv.FormatInt(n.At.UnixMicro(), 10)}, {"outcome", n.Outcome}}
	add := func(name, text string) {
		if text != "" && text != "0" {
			fields = append(fields, [2]string{name, text})
		}
	}
	yes := func(is bool) string {
		if is {
			return "1"
		}
		return ""
	}
	add("by", n.By)
	add("entry", n.Entry)
	add("name", n.Name)
	add("negative", yes(n.Negative))
	add("coverage", n.Coverage)
	add("took", strconv.FormatInt(n.Took.Microseconds(), 10))
	add("bytes", strconv.Itoa(n.Bytes))
	add("replica", yes(n.Replica))
	add("epochs", strings.Join(n.Epochs, " "))
	add("error", n.Error)
	add("count", strconv.Itoa(n.Count))
	return fields
}

// Notes are those that are kept, the oldest first. What is no note is left out.
func (s *Store) Notes(ctx context.Context) (notes []store.Note, err error) {
	to, err := s.toLane(0)
	if err != nil {
		return nil, fmt.Errorf("read what came of loads: %w", err)
	}
	const together = 1000
	from := "-"
	for range 2 * store.MostNotes / together { // whatever a client has made of the stream
		some, err := to.client.Do(ctx, s.client.B().Xrange().Key(s.noteKey()).Start(from).End("+").Count(together).Build()).AsXRange()
		switch {
		case err != nil && (rueidis.IsRedisNil(err) || isWrongType(err)): // none, or somebody's
			return notes, nil
		case err != nil:
			return nil, fmt.Errorf("read what came of loads: %w", to.typed(err))
		}
		for _, entry := range some {
			if n, ok := parseNote(entry.FieldValues); ok {
				notes = append(notes, n)
			}
		}
		if len(some) < together {
			break
		}
		from = "(" + some[len(some)-1].ID
	}
	return notes, nil
}

// parseNote reads a note, as far as it may be believed.
func parseNote(fields map[string]string) (n store.Note, ok bool) {
	text := func(name string) string {
		value := fields[name]
		return store.Printable(value[:min(len(value), longestNote)])
	}
	count := func(name string) int64 {
		value, err := strconv.ParseInt(fields[name], 10, 64)
		if err != nil || value < 0 {
			return 0
		}
		return value
	}
	at := count("at")
	if n.Outcome = text("outcome"); at == 0 || n.Outcome == "" {
		return n, false
	}
	n.At, n.By, n.Entry, n.Name, n.Coverage, n.Error = time.UnixMicro(at), text("by"), text("entry"), text("name"), text("coverage"), text("error")
	n.Took = time.Duration(min(count("took"), int64(time.Hour/time.Microsecond))) * time.Microsecond
	n.Bytes, n.Count = int(count("bytes")), int(count("count"))
	n.Negative, n.Replica = fields["negative"] == "1", fields["replica"] == "1"
	if epochs := strings.Fields(text("epochs")); len(epochs) > 0 {
		n.Epochs = slices.Clip(epochs[:min(len(epochs), store.MostNotedEpochs)])
	}
	return n, true
}
