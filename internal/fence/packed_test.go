package fence

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// squeeze is the record as it is stored with a compressed payload.
func squeeze(r Record, payload []byte) []byte {
	r.Payload = payload
	text := r.Append(nil)
	const flags = len(recordMagic) + 2
	end := flags + bytes.IndexByte(text[flags:], ' ')
	if text[flags] == unflagged[0] {
		end = flags
		text = append(text[:flags:flags], text[flags+1:]...)
	}
	return append(append(append([]byte{}, text[:end]...), packed), text[end:]...)
}

// TestPackedIsTheSameRecord: a record with a compressed payload is the plain one in everything else, and is none to who does not undo it.
func TestPackedIsTheSameRecord(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := records().Draw(t, "record")
		if rapid.Bool().Draw(t, "tied") && r.State != None {
			r.Epochs = []Epoch{{Name: "~0", ID: string(bytes.Repeat([]byte("d"), 32))}}
		}
		plain := r.Append(nil)
		if _, _, ok := Packed(plain); ok {
			t.Fatalf("Packed(%q), which is not", plain)
		}
		stored := rapid.SliceOf(rapid.Byte()).Draw(t, "compressed")
		text := squeeze(r, stored)
		header, payload, ok := Packed(text)
		if ok != (r.State != None) {
			t.Fatalf("Packed(%q) = %t", text, ok)
		}
		if parsed, err := ParseRecord(text); err == nil {
			t.Fatalf("ParseRecord(%q) = %+v", text, parsed)
		}
		if _, _, hit := Hit(text); hit {
			t.Fatalf("Hit(%q)", text)
		}
		if ok && (!bytes.Equal(append(header, r.Payload...), plain) || !bytes.Equal(payload, stored)) {
			t.Fatalf("Packed(%q) = %q, %q; the record is %q", text, header, payload, plain)
		}
	})
}

// FuzzPacked holds that what is taken apart is all there, and that a header which is spelled as this package spells it is written back as the same bytes.
func FuzzPacked(f *testing.F) {
	f.Add([]byte("f1 V z - - s:0000000000000001:0000000000000002: - 0000000000000001\nframe"))
	f.Add([]byte("f1 V tz - - s:0000000000000001:0000000000000002: - 0000000000000001 ~0=dddddddddddddddddddddddddddddddd\nframe"))
	f.Add([]byte("f1 - z - - - - 0000000000000000\n"))
	f.Add([]byte("f1 V zt - - - - 0000000000000000\n"))
	f.Add([]byte("f1 V z\n"))
	f.Add([]byte("f1 \n0z00"))
	f.Add([]byte("f1 V \nz"))
	f.Add([]byte("f1 V z - - s:0000000000000000:0000000000000001: \xc2 0000000000000000\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		header, payload, ok := Packed(text)
		if !ok {
			return
		}
		if !bytes.HasSuffix(text, append([]byte{'\n'}, payload...)) || !bytes.HasSuffix(header, []byte{'\n'}) {
			t.Fatalf("Packed(%q) = %q, %q", text, header, payload)
		}
		if r, err := ParseRecord(header); err == nil {
			plain, stored := r.Append(nil), squeeze(r, payload)
			if bytes.Equal(plain, header) && !bytes.Equal(stored, text) { // a row version has many spellings, of which one is written
				t.Errorf("Packed(%q) = %q, which is stored as %q", text, header, stored)
			}
			if again, frame, ok := Packed(stored); !ok || !bytes.Equal(again, plain) || !bytes.Equal(frame, payload) {
				t.Errorf("Packed(%q) = %q, %q, %t, want the header of %q", stored, again, frame, ok, plain)
			}
		}
		if r, err := ParseRecord(text); err == nil {
			t.Errorf("ParseRecord(%q) = %+v", text, r)
		}
	})
}
