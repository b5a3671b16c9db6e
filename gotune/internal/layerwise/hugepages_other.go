//go:build !linux

package layerwise

// wantHugePages does nothing: there is no such hint here.
func wantHugePages[E any]([]E) {}
