package hub

import (
	"crypto/sha1"
	"fmt"
)

// gitBlobID is the id git gives to a file of this content.
func gitBlobID(b []byte) string {
	return fmt.Sprintf("%x", sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(b)), b...)))
}
