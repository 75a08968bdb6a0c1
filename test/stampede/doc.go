// Package stampede has processes of their own want the same keys at the same time, and kills one that loads.
package stampede
