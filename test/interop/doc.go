// Package interop tests fabrid against Linux: unmodified Debian kernels under
// qemu as hosts and targets, and fabrid as a native process, on a network that
// exists for the test alone. README.md says how to run it; everything but this
// comment needs the build tag interop.
package interop
