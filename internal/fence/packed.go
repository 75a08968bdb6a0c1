package fence

import "bytes"

// packed says, last among a record's flags, that its payload is compressed: a frame of Zstandard. Stores write it and undo it;
// who reads a record behind one never meets it, and ParseRecord takes it for what it does not know.
const packed = 'z'

// Packed takes a record with a compressed payload apart: the header of the same record with the payload as it was, its line end included, and the
// compressed payload, which aliases text. It reports false for what is no such record; that the header is well-formed
// is for ParseRecord to say.
func Packed(text []byte) (header, payload []byte, ok bool) {
	const state, flags = len(recordMagic), len(recordMagic) + 2
	const most = 3
	if len(text) < flags+most || bytes.IndexByte(text[flags:flags+most], packed) < 0 { // most records: no more is read of them
		return nil, nil, false
	}
	head, payload, ok := bytes.Cut(text, []byte{'\n'})
	if !ok || len(head) <= flags || string(head[:state]) != recordMagic || head[state] == '-' {
		return nil, nil, false
	}
	others, rest, _ := bytes.Cut(head[flags:], []byte{' '})
	others, ok = bytes.CutSuffix(others, []byte{packed})
	if !ok || string(others) == unflagged {
		return nil, nil, false
	}
	header = append(append(make([]byte, 0, len(head)+1), head[:flags]...), others...)
	if len(others) == 0 {
		header = append(header, unflagged...)
	}
	return append(append(append(header, ' '), rest...), '\n'), payload, true
}
