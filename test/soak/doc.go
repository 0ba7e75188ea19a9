// Package soak holds the tests that take minutes to hours, on a quiet machine:
// make soak runs them, make check does not.
package soak
