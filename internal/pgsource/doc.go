// Package pgsource reads a PostgreSQL database's committed changes from its log, by logical replication.
//
// A [Stream] decodes the pgoutput plugin's messages (protocol version 1) and hands them, one by one, to a
// [change.Sink]. [Prepare] makes the publication and the slot that a stream reads. Nothing is ever skipped: whatever
// means that the stream may lack a change ends it with a [*GapError].
package pgsource
