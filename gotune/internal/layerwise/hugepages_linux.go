package layerwise

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the usual size of a large page.
const hugePage = 2 << 20

// wantHugePages asks for large pages behind memory that was not written yet: the
// system hands out fresh memory about four times as fast in them.
func wantHugePages[E any](flat []E) {
	var e E
	n := uintptr(len(flat)) * unsafe.Sizeof(e)
	if n < 2*hugePage {
		return
	}
	p := unsafe.Pointer(unsafe.SliceData(flat))
	skip := -uintptr(p) % hugePage
	inner := unsafe.Slice((*byte)(unsafe.Add(p, skip)), (n-skip)/hugePage*hugePage)
	_ = unix.Madvise(inner, unix.MADV_HUGEPAGE) // a hint: a system that refuses it hands out small pages
}
