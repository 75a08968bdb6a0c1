// Package epochs runs the daemon's pipeline and readers with entries whose values are tied to epochs, of each class and with paths
// of one and of two tables, under concurrent writers, on one Redis and on a Redis Cluster. What a read returns is held
// against what its reader knows to be committed, and at the end all that is cached against the database.
package epochs
