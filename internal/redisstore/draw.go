package redisstore

import (
	"crypto/rand"
	"encoding/hex"
)

// Draw returns 64 random bits as 16 hexadecimal digits: a generation, an activation, the name of a count. Never a counter, so that a
// name which was used once is not used again whatever history a store has lost.
func Draw() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
