// Package standby tests reading through hot standbys that lag, stand still, restart and are promoted, under writes: what
// is cached in the end is what the primary has.
package standby
