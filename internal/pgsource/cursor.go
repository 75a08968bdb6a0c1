package pgsource

import (
	"bytes"
	"encoding/binary"
)

// cursor reads a message's fields from front to back. The first field that is not there makes it short, and every
// field after that reads as zero, so that a caller checks once, at the end.
type cursor struct {
	rest  []byte
	short bool
}

// take returns the next n bytes, aliasing the message.
func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.rest) {
		c.short, c.rest = true, nil
		return nil
	}
	field := c.rest[:n:n]
	c.rest = c.rest[n:]
	return field
}

func (c *cursor) uint8() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// text returns the bytes up to the next NUL, which it swallows.
func (c *cursor) text() []byte {
	end := bytes.IndexByte(c.rest, 0)
	if end < 0 {
		c.short, c.rest = true, nil
		return nil
	}
	field := c.rest[:end:end]
	c.rest = c.rest[end+1:]
	return field
}
