package mvcc_test

import (
	"errors"
	"fmt"

	"github.com/freshet/freshet/mvcc"
)

// Positions in the log are numbers, which PostgreSQL prints as two hexadecimal halves. Their difference is in bytes.
func ExampleLSN() {
	var from, to mvcc.LSN = 0x16_B374_D848, 0x16_B374_E848
	fmt.Println(from.String(), "to", to, "are", uint64(to-from), "bytes")
	// Output: 16/B374D848 to 16/B374E848 are 4096 bytes
}

// What pg_current_wal_lsn() says. Anything else is an error that wraps ErrSyntax.
func ExampleParseLSN() {
	position, err := mvcc.ParseLSN("16/B374D848")
	fmt.Println(uint64(position), err)
	_, err = mvcc.ParseLSN("yesterday")
	fmt.Println(errors.Is(err, mvcc.ErrSyntax))
	// Output:
	// 97500059720 <nil>
	// true
}

// A snapshot sees what had committed when it was taken: here all below 745, but for 742, which was still running.
func ExampleSnapshot_Sees() {
	s := mvcc.Snapshot{Xmin: 742, Xmax: 745, Xip: []mvcc.XID{742}}
	for _, x := range []mvcc.XID{741, 742, 744, 745} {
		fmt.Println(x.String(), s.Sees(x))
	}
	// Output:
	// 741 true
	// 742 false
	// 744 true
	// 745 false
}

// Of two snapshots one may see all that the other sees. Neither may: each sees something that the other does not.
func ExampleSnapshot_Dominates() {
	earlier, err := mvcc.ParseSnapshot("742:745:742")
	if err != nil {
		fmt.Println(err)
		return
	}
	later := mvcc.Snapshot{Xmin: 746, Xmax: 746}
	fmt.Println(later.Dominates(earlier), earlier.Dominates(later))
	// Output: true false
}

// What pg_current_snapshot() says. The zero Snapshot is none that any server reports.
func ExampleParseSnapshot() {
	s, err := mvcc.ParseSnapshot("742:745:742,744")
	fmt.Println(s.Xmin, s.Xmax, s.Xip, s.IsZero(), err)
	fmt.Println(s.String())
	// Output:
	// 742 745 [742 744] false <nil>
	// 742:745:742,744
}

// What pg_current_xact_id() says, an xid8.
func ExampleParseXID() {
	x, err := mvcc.ParseXID("4294967301")
	fmt.Println(x, err)
	// Output: 4294967301 <nil>
}

// The log, and the columns xmin and xmax of a row, have the lower 32 bits of a transaction's id. Any id of about the same time completes them.
func ExampleExtend() {
	const now mvcc.XID = 4294967301 // the sixth of the second time that the 32 bits go round
	fmt.Println(mvcc.Extend(3, now), mvcc.Extend(4294967290, now))
	// Output: 4294967299 4294967290
}

// A token names a transaction, of one cluster. It is given from who wrote to who reads as text.
func ExampleToken() {
	written := mvcc.Token{System: "7351234567890123456", Timeline: 1, XID: 745, After: 0x16_B374_D848}
	text := written.String()
	fmt.Println(text)
	read, err := mvcc.ParseToken(text)
	fmt.Println(read == written, read.IsZero(), err)
	// Output:
	// 7351234567890123456.00000001.745.16/B374D848
	// true false <nil>
}
