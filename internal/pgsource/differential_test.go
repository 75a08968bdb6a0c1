package pgsource

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

var update = flag.Bool("update", false, "write what real servers sent into the fuzz corpus")

const everyKind = "BCORYIUDTM"

// allKinds are statements after which a stream has every message of protocol version 1.
var allKinds = []string{
	`CREATE TYPE mood AS ENUM ('sad', 'ok')`,
	`CREATE TABLE plain (id int PRIMARY KEY, a text, m mood, big text)`,
	`ALTER TABLE plain ALTER big SET STORAGE EXTERNAL`,
	`CREATE TABLE whole (id int, a text, big text)`,
	`ALTER TABLE whole ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL`,
	`CREATE TABLE pair (a int NOT NULL, b text NOT NULL, c numeric, big text, UNIQUE (a, b))`,
	`ALTER TABLE pair ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY USING INDEX pair_a_b_key`,
}

// capture returns the stream's messages since the slot's position, as the server sent them.
func (f *fixture) capture(t *testing.T) [][]byte {
	t.Helper()
	f.exec(t, `SELECT pg_logical_emit_message(true, 'test', 'the end')`)
	session, err := openSession(t.Context(), f.options())
	if err != nil {
		t.Fatal(err)
	}
	hijacked, err := session.replicate(t.Context(), f.options(), session.confirmed)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hijacked.Conn.Close() }()
	stop := context.AfterFunc(t.Context(), func() { _ = hijacked.Conn.Close() })
	defer stop()
	var messages [][]byte
	for ended := false; ; {
		received, err := hijacked.Frontend.Receive()
		if err != nil {
			t.Fatal(err)
		}
		m, ok := received.(*pgproto3.CopyData)
		if !ok || m.Data[0] != copyLog {
			continue
		}
		data := append([]byte{}, m.Data[logHeader:]...)
		messages = append(messages, data)
		ended = ended || strings.HasSuffix(string(data), "the end")
		if ended && data[0] == 'C' {
			return messages
		}
	}
}

func TestDecoderAgreesWithPglogrepl(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), allKinds, "plain", "whole", "pair")
	origin := f.slot[:min(len(f.slot), 50)] + "_o"
	f.exec(t,
		`INSERT INTO plain VALUES (1, 'é', 'ok', repeat('x', 9000)), (2, NULL, 'ok', NULL), (3, '', NULL, '')`,
		`UPDATE plain SET a = 'b'`, `UPDATE plain SET id = id + 10`, `UPDATE plain SET big = 'small' WHERE id = 11`, `DELETE FROM plain WHERE id = 12`,
		`INSERT INTO whole VALUES (1, 'a', repeat('x', 9000)), (2, NULL, NULL)`, `UPDATE whole SET a = 'b'`, `DELETE FROM whole`,
		`INSERT INTO pair VALUES (1, repeat('k', 10), 1.50, repeat('x', 9000))`, `UPDATE pair SET c = NULL`, `UPDATE pair SET b = 'k'`, `DELETE FROM pair`,
		`TRUNCATE plain, whole RESTART IDENTITY CASCADE`,
		`SELECT pg_logical_emit_message(true, 'p', '\x00ff'::bytea)`, `SELECT pg_logical_emit_message(false, '', '')`,
		`SELECT pg_replication_origin_create('`+origin+`')`, `SELECT pg_replication_origin_session_setup('`+origin+`')`,
		`BEGIN; SELECT pg_replication_origin_xact_setup('1/23', '2026-01-01'); INSERT INTO plain VALUES (5); COMMIT`,
		`SELECT pg_replication_origin_session_reset()`, `SELECT pg_replication_origin_drop('`+origin+`')`,
		`ALTER TABLE plain ADD more bool DEFAULT true`, `INSERT INTO plain (id) VALUES (6)`)
	messages := f.capture(t)
	kinds := compare(t, messages)
	for _, k := range everyKind {
		if kinds[byte(k)] == 0 {
			t.Errorf("the stream has no message of kind %q", k)
		}
	}
	if *update {
		writeCorpus(t, "real", messages)
	}
}

func TestDecoderAgreesWithPglogreplOnRandomWrites(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), allKinds, "plain", "whole", "pair")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	value := func() string {
		return []string{`NULL`, `''`, `'v'`, `repeat('long ', 2000)`, `E'quote'' tab\t'`, `'ü€'`}[random.IntN(6)]
	}
	for range 60 {
		var b strings.Builder
		b.WriteString("BEGIN;")
		for range 1 + random.IntN(5) {
			id, to := random.IntN(8), random.IntN(8)
			table := []string{"plain", "whole"}[random.IntN(2)]
			switch random.IntN(9) {
			case 0, 1:
				fmt.Fprintf(&b, "INSERT INTO plain (id, a, big) VALUES (%d, %s, %s) ON CONFLICT DO NOTHING;", id, value(), value())
			case 2:
				fmt.Fprintf(&b, "INSERT INTO whole VALUES (%d, %s, %s);", id, value(), value())
			case 3:
				fmt.Fprintf(&b, "INSERT INTO pair VALUES (%d, 'k%d', %d.5, %s) ON CONFLICT DO NOTHING;", id, to, to, value())
			case 4:
				fmt.Fprintf(&b, "UPDATE %s SET a = %s WHERE id = %d;", table, value(), id)
			case 5:
				fmt.Fprintf(&b, "UPDATE plain SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM plain WHERE id = %[1]d);", to, id)
			case 6:
				fmt.Fprintf(&b, "UPDATE pair SET c = %d WHERE a = %d; DELETE FROM pair WHERE a = %d;", to, id, to)
			case 7:
				fmt.Fprintf(&b, "DELETE FROM %s WHERE id = %d; SAVEPOINT s; DELETE FROM %[1]s WHERE id = %d; ROLLBACK TO s;", table, id, to)
			case 8:
				fmt.Fprintf(&b, "SELECT pg_logical_emit_message(%t, 'p%d', %s);", random.IntN(2) == 0, id, strings.Replace(value(), "NULL", "''", 1))
				if random.IntN(10) == 0 {
					b.WriteString("TRUNCATE whole, pair;")
				}
			}
		}
		b.WriteString([]string{"COMMIT", "COMMIT", "COMMIT", "ROLLBACK"}[random.IntN(4)])
		f.exec(t, b.String())
	}
	compare(t, f.capture(t))
}

// compare decodes every message with both decoders, and counts them by kind.
func compare(t *testing.T, messages [][]byte) map[byte]int {
	t.Helper()
	kinds := make(map[byte]int)
	d := newDecoder(0)
	relations := make(map[uint32]*pglogrepl.RelationMessage)
	for i, data := range messages {
		kinds[data[0]]++
		k, err := d.decode(data)
		if err != nil || byte(k) != data[0] {
			t.Fatalf("message %d, %q: %q, %v", i, data, byte(k), err)
		}
		theirs, err := pglogrepl.Parse(data)
		if err != nil {
			t.Fatalf("message %d, %q: pglogrepl: %v", i, data, err)
		}
		var want, got any
		switch m := theirs.(type) {
		case *pglogrepl.BeginMessage:
			want = change.Begin{XID: mvcc.XID(m.Xid), End: mvcc.LSN(m.FinalLSN) + 1, Committed: m.CommitTime.UTC()}
			got = d.begin
		case *pglogrepl.CommitMessage:
			want, got = change.Commit{Position: change.Position(m.TransactionEndLSN)}, d.commit
		case *pglogrepl.RelationMessage:
			relations[m.RelationID] = m
			want, got = relationOf(m), *d.relation
		case *pglogrepl.InsertMessage:
			want = change.Row{Op: change.Insert, Relation: new(relationOf(relations[m.RelationID])), New: valuesOf(relations[m.RelationID], 'N', m.Tuple)}
			got = d.row
		case *pglogrepl.UpdateMessage:
			row := change.Row{Op: change.Update, Relation: new(relationOf(relations[m.RelationID])), New: valuesOf(relations[m.RelationID], 'N', m.NewTuple)}
			if m.OldTuple != nil {
				row.Old = valuesOf(relations[m.RelationID], m.OldTupleType, m.OldTuple)
				for i := range row.New {
					if row.New[i].Kind == change.Unchanged && row.Old[i].Kind != change.Absent {
						row.New[i] = row.Old[i]
					}
				}
			}
			want, got = row, d.row
		case *pglogrepl.DeleteMessage:
			want = change.Row{Op: change.Delete, Relation: new(relationOf(relations[m.RelationID])), Old: valuesOf(relations[m.RelationID], m.OldTupleType, m.OldTuple)}
			got = d.row
		case *pglogrepl.TruncateMessage:
			truncate := change.Truncate{
				Relations: make([]*change.Relation, len(m.RelationIDs)),
				Cascade:   m.Option&pglogrepl.TruncateOptionCascade != 0, RestartIdentity: m.Option&pglogrepl.TruncateOptionRestartIdentity != 0,
			}
			for i, oid := range m.RelationIDs {
				truncate.Relations[i] = new(relationOf(relations[oid]))
			}
			want, got = truncate, d.truncate
		case *pglogrepl.LogicalDecodingMessage:
			want = change.Message{Transactional: m.Transactional, LSN: mvcc.LSN(m.LSN), Prefix: m.Prefix, Content: m.Content}
			got = d.message
		case *pglogrepl.TypeMessage, *pglogrepl.OriginMessage:
		default:
			t.Fatalf("message %d: %T", i, m)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("message %d, %q (-pglogrepl +decoder):\n%s", i, data, diff)
		}
	}
	return kinds
}

func relationOf(m *pglogrepl.RelationMessage) change.Relation {
	r := change.Relation{
		OID: m.RelationID, Schema: m.Namespace, Name: m.RelationName, Identity: change.Identity(m.ReplicaIdentity),
		Columns: make([]change.Column, len(m.Columns)),
	}
	for i, c := range m.Columns {
		r.Columns[i] = change.Column{Name: c.Name, TypeOID: c.DataType, TypeMod: c.TypeModifier, Key: c.Flags == 1}
	}
	return r
}

func valuesOf(relation *pglogrepl.RelationMessage, image uint8, tuple *pglogrepl.TupleData) []change.Value {
	values := make([]change.Value, len(tuple.Columns))
	for i, c := range tuple.Columns {
		switch c.DataType {
		case pglogrepl.TupleDataTypeNull:
			values[i].Kind = change.Null
			if image == 'K' && relation.Columns[i].Flags == 0 {
				values[i].Kind = change.Absent
			}
		case pglogrepl.TupleDataTypeToast:
			values[i].Kind = change.Unchanged
		default:
			values[i] = change.Value{Kind: change.Text, Text: append([]byte{}, c.Data...)}
		}
	}
	return values
}

// writeCorpus packs messages as FuzzDecode takes them: whole transactions, each with the descriptions before it.
func writeCorpus(t *testing.T, name string, messages [][]byte) {
	t.Helper()
	var packed, relations []byte
	part := 0
	for _, data := range messages {
		if len(data) > 1000 { // a large value is no more than a small one here
			continue
		}
		framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(data))), data...)
		if data[0] == 'R' || data[0] == 'Y' {
			relations = append(relations, framed...)
		}
		packed = append(packed, framed...)
		if data[0] != 'C' {
			continue
		}
		file := filepath.Join("testdata", "fuzz", "FuzzDecode", fmt.Sprintf("%s-%02d", name, part))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", packed), 0o644); err != nil {
			t.Fatal(err)
		}
		part++
		packed = append([]byte{}, relations...)
	}
}
