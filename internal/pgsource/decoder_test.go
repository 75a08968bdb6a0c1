package pgsource

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/change"
)

// wire builds a message field by field.
type wire []byte

func (w wire) u8(v byte) wire      { return append(w, v) }
func (w wire) u16(v uint16) wire   { return binary.BigEndian.AppendUint16(w, v) }
func (w wire) u32(v uint32) wire   { return binary.BigEndian.AppendUint32(w, v) }
func (w wire) u64(v uint64) wire   { return binary.BigEndian.AppendUint64(w, v) }
func (w wire) text(v string) wire  { return append(append(w, v...), 0) }
func (w wire) value(v string) wire { return append(w.u8('t').u32(uint32(len(v))), v...) }

const (
	final = 0x16B374D848
	oid   = 16400
)

func beginMessage(xid uint32) wire { return wire{'B'}.u64(final).u64(0).u32(xid) }

func relationMessage(columns int) wire {
	w := wire{'R'}.u32(oid).text("public").text("t").u8('d').u16(uint16(columns))
	for i := range columns {
		w = w.u8(byte(1 - min(i, 1))).text("c").u32(25).u32(0xFFFFFFFF)
	}
	return w
}

func commitMessage() wire { return wire{'C'}.u8(0).u64(final).u64(final + 48).u64(0) }

func TestDecodeMalformed(t *testing.T) {
	t.Parallel()
	begin, relation := beginMessage(7), relationMessage(2)
	row := wire{'I'}.u32(oid).u8('N').u16(2).value("1").u8('n')
	tests := []struct {
		name     string
		messages []wire
		want     string
	}{
		{"empty", []wire{{}}, "empty"},
		{"unknown message", []wire{begin, {'Z'}}, `unknown message 'Z'`},
		{"stream start of version 2", []wire{wire{'S'}.u32(7).u8(1)}, `unknown message 'S'`},
		{"prepare of version 3", []wire{wire{'P'}.u8(0)}, `unknown message 'P'`},
		{"begin inside a transaction", []wire{begin, begin}, "begins inside"},
		{"commit without begin", []wire{commitMessage()}, "did not begin"},
		{"commit of another", []wire{begin, wire{'C'}.u8(0).u64(final + 8).u64(final + 48).u64(0)}, "began as one"},
		{"commit before itself", []wire{begin, wire{'C'}.u8(0).u64(final).u64(final).u64(0)}, "before its commit record"},
		{"row without begin", []wire{relation, row}, "outside any transaction"},
		{"row of an unknown table", []wire{begin, row}, "never described"},
		{"too many columns", []wire{begin, relationMessage(1), row}, "2 columns"},
		{"too few columns", []wire{begin, relationMessage(3), row}, "2 columns"},
		{"unknown value", []wire{begin, relation, wire{'I'}.u32(oid).u8('N').u16(2).u8('?').u8('n')}, `kind '?'`},
		{"binary value", []wire{begin, relation, wire{'I'}.u32(oid).u8('N').u16(2).u8('b').u32(0).u8('n')}, `kind 'b'`},
		{"long value", []wire{begin, relation, wire{'I'}.u32(oid).u8('N').u16(2).u8('t').u32(0xFFFFFFFF)}, "cut short"},
		{"insert with an old row", []wire{begin, relation, wire{'I'}.u32(oid).u8('K').u16(2).value("1").u8('n')}, `kind 'K'`},
		{"unknown tuple", []wire{begin, relation, wire{'U'}.u32(oid).u8('X').u16(2).value("1").u8('n')}, `kind 'X'`},
		{"delete with a new row", []wire{begin, relation, wire{'D'}.u32(oid).u8('N').u16(2).value("1").u8('n')}, `kind 'N'`},
		{"update without a new row", []wire{begin, relation, wire{'U'}.u32(oid).u8('K').u16(2).value("1").u8('n')}, "cut short"},
		{"two old rows", []wire{begin, relation, wire{'U'}.u32(oid).u8('K').u16(2).value("1").u8('n').u8('K').u16(2).value("1").u8('n')}, `kind 'K'`},
		{"more than a row", []wire{begin, relation, append(row, 0)}, "1 too many"},
		{"unknown identity", []wire{wire{'R'}.u32(oid).text("s").text("t").u8('x').u16(0)}, "replica identity"},
		{"endless columns", []wire{wire{'R'}.u32(oid).text("s").text("t").u8('d').u16(0xFFFF)}, "cut short"},
		{"unending name", []wire{append(wire{'R'}.u32(oid), "name"...)}, "cut short"},
		{"truncate of an unknown table", []wire{begin, wire{'T'}.u32(1).u8(0).u32(oid)}, "never described"},
		{"truncate without begin", []wire{relation, wire{'T'}.u32(1).u8(0).u32(oid)}, "outside any transaction"},
		{"endless truncate", []wire{begin, wire{'T'}.u32(0xFFFFFFFF).u8(0)}, "cut short"},
		{"transactional message without begin", []wire{wire{'M'}.u8(1).u64(1).text("p").u32(0)}, "outside any transaction"},
		{"long message", []wire{wire{'M'}.u8(0).u64(1).text("p").u32(1 << 31)}, "cut short"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newDecoder(0)
			for i, message := range tt.messages {
				_, err := d.decode(message)
				if i < len(tt.messages)-1 {
					if err != nil {
						t.Fatalf("message %d: %v", i, err)
					}
					continue
				}
				if _, ok := errors.AsType[*GapError](err); !ok || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("decode = %v, want a gap: %q", err, tt.want)
				}
			}
		})
	}
}

// Every message that lost its end is noticed.
func TestDecodeCutShort(t *testing.T) {
	t.Parallel()
	messages := []wire{
		beginMessage(7), relationMessage(2), wire{'Y'}.u32(1).text("s").text("t"), wire{'O'}.u64(1).text("o"),
		wire{'I'}.u32(oid).u8('N').u16(2).value("1").u8('n'),
		wire{'U'}.u32(oid).u8('K').u16(2).value("1").u8('n').u8('N').u16(2).value("2").u8('u'),
		wire{'D'}.u32(oid).u8('O').u16(2).value("1").value("2"),
		wire{'T'}.u32(1).u8(3).u32(oid), wire{'M'}.u8(1).u64(1).text("p").u32(3).u8(1).u8(2).u8(3),
		commitMessage(),
	}
	for cut := range messages {
		for n := range len(messages[cut]) {
			d := newDecoder(0)
			for _, message := range messages[:cut] {
				if _, err := d.decode(message); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := d.decode(messages[cut][:n]); err == nil {
				t.Errorf("%d bytes of %q are taken for a message", n, messages[cut])
			}
		}
	}
}

func TestDecodeExtendsTransactionIDs(t *testing.T) {
	t.Parallel()
	d := newDecoder(3<<32 + 5)
	for _, want := range []uint64{3<<32 + 4, 3<<32 + 7, 3<<32 - 9, 3<<32 + 1<<30, 3<<32 + 2<<30, 3<<32 + 3<<30, 4<<32 + 3} {
		if _, err := d.decode(beginMessage(uint32(want))); err != nil {
			t.Fatal(err)
		}
		if uint64(d.begin.XID) != want || d.begin.End != final+1 {
			t.Errorf("begin %d, end %s, want %d, %s", d.begin.XID, d.begin.End, want, mvccLSN(final+1))
		}
		if _, err := d.decode(commitMessage()); err != nil {
			t.Fatal(err)
		}
		if d.commit.Position != final+48 {
			t.Errorf("position %d", d.commit.Position)
		}
	}
}

// A new connection knows nothing of the last one's tables.
func TestDecoderOfANewConnectionIsEmpty(t *testing.T) {
	t.Parallel()
	for i := range 2 {
		d := newDecoder(0)
		messages := []wire{beginMessage(7), relationMessage(2), wire{'I'}.u32(oid).u8('N').u16(2).value("1").u8('n')}
		if i == 1 {
			messages = append(messages[:1], messages[2])
		}
		var err error
		for _, message := range messages {
			_, err = d.decode(message)
		}
		if (err != nil) != (i == 1) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

//nolint:paralleltest // counts the whole process's allocations
func TestDecodingARowAllocatesNothing(t *testing.T) {
	d := newDecoder(0)
	for _, message := range []wire{beginMessage(7), relationMessage(8)} {
		if _, err := d.decode(message); err != nil {
			t.Fatal(err)
		}
	}
	message := wideUpdate()
	if allocs := testing.AllocsPerRun(100, func() {
		if _, err := d.decode(message); err != nil {
			t.Fatal(err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if d.row.Op != change.Update || string(d.row.New[7].Text) != "some text" {
		t.Errorf("row %+v", d.row)
	}
}

func wideUpdate() wire {
	message := wire{'U'}.u32(oid).u8('K').u16(8).value("1234567890")
	for range 7 {
		message = message.u8('n')
	}
	message = message.u8('N').u16(8)
	for range 8 {
		message = message.value("some text")
	}
	return message
}

func BenchmarkDecode(b *testing.B) {
	b.Run("update", func(b *testing.B) {
		d := newDecoder(0)
		for _, message := range []wire{beginMessage(7), relationMessage(8)} {
			if _, err := d.decode(message); err != nil {
				b.Fatal(err)
			}
		}
		message := wideUpdate()
		b.SetBytes(int64(len(message)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.decode(message); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("transaction", func(b *testing.B) {
		d := newDecoder(0)
		if _, err := d.decode(relationMessage(2)); err != nil {
			b.Fatal(err)
		}
		messages := []wire{beginMessage(7), wire{'I'}.u32(oid).u8('N').u16(2).value("1").value("text"), commitMessage()}
		b.ReportAllocs()
		for b.Loop() {
			for _, message := range messages {
				if _, err := d.decode(message); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// FuzzDecode takes messages, each after its length in 16 bits. Whatever they are, decoding neither panics nor reaches
// outside them, and an error is a gap.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, packed []byte) {
		d := newDecoder(1 << 32)
		for len(packed) >= 2 {
			n := min(int(binary.BigEndian.Uint16(packed)), len(packed)-2)
			message := packed[2 : 2+n : 2+n]
			packed = packed[2+n:]
			k, err := d.decode(message)
			if err != nil {
				if _, ok := errors.AsType[*GapError](err); !ok || k != 0 {
					t.Fatalf("decode(%q) = %q, %v", message, k, err)
				}
				return
			}
			if byte(k) != message[0] {
				t.Fatalf("decode(%q) = %q", message, k)
			}
			switch k {
			case kindInsert, kindUpdate, kindDelete:
				checkRow(t, &d.row, len(message))
			case kindTruncate:
				for _, r := range d.truncate.Relations {
					if r == nil {
						t.Fatal("truncate of nothing")
					}
				}
			case kindMessage:
				if len(d.message.Content) > len(message) {
					t.Fatal("content is longer than its message")
				}
			case kindBegin, kindCommit, kindOrigin, kindRelation, kindType:
			}
		}
	})
}

func checkRow(t *testing.T, r *change.Row, size int) {
	t.Helper()
	if (r.New == nil) != (r.Op == change.Delete) || (r.Op == change.Insert && r.Old != nil) || (r.Op == change.Delete && r.Old == nil) {
		t.Fatalf("%s has old %v, new %v", r.Op, r.Old != nil, r.New != nil)
	}
	for _, image := range [][]change.Value{r.Old, r.New} {
		if image != nil && len(image) != len(r.Relation.Columns) {
			t.Fatalf("%d values of %d columns", len(image), len(r.Relation.Columns))
		}
		for _, v := range image {
			if size -= len(v.Text); v.Kind != change.Text && v.Text != nil {
				t.Fatalf("value %+v", v)
			}
		}
	}
	if r.Op != change.Update && size < 0 { // an update may show a value twice
		t.Fatal("values are longer than their message")
	}
}
