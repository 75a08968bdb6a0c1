// Package examples shows how writing through freshet goes together with sqlc, GORM and other drivers of database/sql. It is a module of its own,
// so that their dependencies stay out of freshet's; its tests run against a real database.
package examples
