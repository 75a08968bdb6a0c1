// Package transit has everything that freshet says to anybody go over TLS, with real certificates and users, and looks at
// what happens where one of them is wrong.
package transit
