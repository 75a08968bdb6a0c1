// Package soundness holds the planner and the router to their promise on a real PostgreSQL: whatever a committed
// transaction changes in the result of any key, the rules name that key. There is no product code in it.
package soundness
