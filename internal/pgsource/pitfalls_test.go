package pgsource

// Where each of the known pitfalls of reading PostgreSQL's log has its test. All run on a real server, except for
// the pure ones of the decoder.
//
//	topic                                                        test
//	-----                                                        ----
//	simple protocol only; names quoted, twice where a list       TestNamesAreQuoted
//	status: flush is what was applied, never 0 nor a keepalive's TestNothingIsConfirmedOnItsOwn, TestConfirmedIsNotSentAgain
//	status from a timer while applying is blocked                TestBlockedSinkKeepsTheConnection
//	status prompt after a confirmation                           TestConfirmReachesTheSlotPromptly
//	one reader, one writer of the connection                     every test under -race
//	silent connection; server that stops, crashes, ends us       TestSilentConnection, TestServerRestart, TestServerCrash, TestTerminatedWalsender
//	SQLSTATEs: wait, gap, operator, passing                      TestClassify, TestSlotInUse, TestSlotMissing, TestMissingPrivileges, TestStandbyIsRefused
//	buffers are reused                                           TestDecodingARowAllocatesNothing, TestMessages
//	confirm a commit's end; keepalives outside transactions only TestConfirmedIsNotSentAgain, TestIdleDatabaseAdvancesTheSlot
//	ends of commits are monotonic, positions of rows are not     TestBeginCarriesTheWritersTransactionID
//	a start below the confirmed position is forwarded            TestForwardedStartIsAGap
//	options by server version                                    TestStartCommand
//	later versions' messages are unknown, not skipped            TestDecodeMalformed
//	two-phase: only at COMMIT PREPARED, under its own id         TestTwoPhaseCommit
//	relations: replaced, and cleared on reconnect; missing       TestRelationIsReplaced, TestDecoderOfANewConnectionIsEmpty, TestDecodeMalformed
//	type and origin messages parse; an unknown byte is a gap     TestDecoderAgreesWithPglogrepl, TestDecodeMalformed
//	every length is checked                                      TestDecodeCutShort, FuzzDecode
//	kinds of values; unchanged large ones                        TestLargeUnchangedValue, TestDecodeMalformed
//	old images under each replica identity; NULL is not absent   TestOldImages
//	key change; row that moves between partitions                TestOldImages, TestPartitions
//	no identity breaks the application's writes                  TestPublishedTableWithoutIdentityBreaksItsWriters, TestPrepareRefusesTables
//	truncate of several tables, cascading, of a partition        TestTruncate, TestPartitions
//	partitions under the root's name, new ones too               TestPartitions
//	a partition's identity differs from its root's               TestPartitionWithoutTheRootsIdentitySendsNullForWhatIsNotLogged, TestPrepareRefusesTables
//	row filters and column lists                                 TestPrepareRefusesPublications
//	generated columns                                            TestRelationIsReplaced
//	what is not in the stream at all                             TestWhatTheStreamDoesNotCarry
//	empty transactions and idle databases                        TestIdleDatabaseAdvancesTheSlot
//	messages: transactional or not, rolled back, any bytes       TestMessages
//	changes replicated into this database                        TestDecoderAgreesWithPglogrepl (an origin's transaction is sent)
//	text is the same under any settings                          TestTextDoesNotDependOnTheDatabasesSettings
//	transaction ids: top-level, in 64 bits                       TestBeginCarriesTheWritersTransactionID, TestDecodeExtendsTransactionIDs
//	delivered before visible                                     pggate: TestSnapshotDoesNotSeeACommitThatHangsInSynchronousReplication
//	publication before slot; made again too late                 TestPrepareIsIdempotent, TestPublicationMissing
//	slot creation can be cancelled                               TestSlotCreationCanBeCancelled
//	health; lost slots                                           TestLostSlot, TestSlotLostWhileStreaming
//	asynchronous commits                                         TestAsynchronousCommit
//	servers from 18 on skip a missing publication with a warning TestNotices

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

func TestStartCommand(t *testing.T) {
	t.Parallel()
	for version, options := range map[int]string{
		13: `proto_version '1', publication_names '"a""b''c"'`,
		14: `proto_version '1', publication_names '"a""b''c"', messages 'true'`,
		18: `proto_version '1', publication_names '"a""b''c"', messages 'true'`,
	} {
		want := `START_REPLICATION SLOT "s" LOGICAL 16/B374D848 (` + options + `)`
		if got := startCommand("s", `a"b'c`, 0x16B374D848, version); got != want {
			t.Errorf("startCommand for %d = %s, want %s", version, got, want)
		}
	}
}

func TestNotices(t *testing.T) {
	t.Parallel()
	s := &Stream{logger: slog.New(slog.DiscardHandler)}
	tests := []struct {
		severity, code string
		gap            bool
	}{
		{"WARNING", "55000", true}, {"WARNING", "01000", false}, {"NOTICE", "55000", false},
	}
	for _, tt := range tests {
		err := s.notice(t.Context(), &pgproto3.NoticeResponse{SeverityUnlocalized: tt.severity, Code: tt.code, Message: "skipped loading publication"})
		if _, gap := errors.AsType[*GapError](err); gap != tt.gap {
			t.Errorf("%s %s: %v", tt.severity, tt.code, err)
		}
	}
}

// A slot's creation waits for every running transaction, of any database. That can be given up, and taken up again.
func TestSlotCreationCanBeCancelled(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	url := server.URL("postgres")
	writer := connect(t, server.Database(t))
	for _, statement := range []string{`CREATE TABLE t (id int)`, `BEGIN`, `INSERT INTO t VALUES (1)`} {
		if _, err := writer.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	o := PrepareOptions{Slot: "s", Publication: "p"}
	if _, err := Prepare(ctx, connect(t, url), o); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Prepare = %v, want that it waits", err)
	}
	if _, err := writer.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, patience, func() error {
		_, err := Prepare(t.Context(), connect(t, url), o)
		return err
	})
}
