// Package many holds reads of many keys against reads of each of them: the same values, the same records, whatever the query
// is, on real servers, with the planner's own rules.
package many
