//go:build !linux

package ckpt

import "errors"

// exchange would let two folders change names in one step; here two renames must
// do, with a moment in between when a replaced checkpoint has a hidden name.
func exchange(a, b string) error { return errors.ErrUnsupported }
