// Package source holds the sources of the client, package gotune/gotune, as this build has them. The
// notebook kernel serves them to its cells as a module, so that a notebook needs no network.
package source

import "embed"

// Client is go.mod and the files of package gotune and of what it imports, by their path in the
// repository. Test files are among them.
//
//go:embed go.mod gotune/*.go gotune/internal/wire/*.go
var Client embed.FS
