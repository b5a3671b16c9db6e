package safetensors

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// A FormatError reports a file that breaks a rule of the format.
type FormatError struct {
	Path   string
	Tensor string // name of the tensor at fault, if one is known
	What   string // the rule broken, with found and wanted values
}

func (e *FormatError) Error() string {
	if e.Tensor != "" {
		return fmt.Sprintf("safetensors: open %s: tensor %q: %s", e.Path, e.Tensor, e.What)
	}
	return fmt.Sprintf("safetensors: open %s: %s", e.Path, e.What)
}

// A TruncatedError reports a file shorter than its header says, as a broken
// download leaves it.
type TruncatedError struct {
	Path          string
	Found, Wanted int64 // bytes
}

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("safetensors: open %s: the file is cut off: found %d bytes, wanted %d: delete the file and load the model again",
		e.Path, e.Found, e.Wanted)
}

// A NotFoundError reports a tensor that a file does not hold.
type NotFoundError struct {
	Path, Tensor string
	Have         int // tensors in the file
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("safetensors: %s holds no tensor %q (it has %d others)", e.Path, e.Tensor, e.Have)
}

// Is makes errors.Is(err, fs.ErrNotExist) hold.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// A DiskFullError reports that a file does not fit on its disk. Nothing is left
// of the file.
type DiskFullError struct {
	Path         string
	Wanted, Free int64 // bytes of the whole file and bytes free now; Free is -1 if unknown
	Err          error
}

func (e *DiskFullError) Error() string {
	free := ""
	if e.Free >= 0 {
		free = fmt.Sprintf(", %d are free", e.Free)
	}
	return fmt.Sprintf("safetensors: write %s: the disk is full: the file takes %d bytes%s: free some space or choose another folder, then run it again",
		e.Path, e.Wanted, free)
}

// Is makes errors.Is(err, syscall.ENOSPC) hold, also when the room was found too
// small before anything was written.
func (e *DiskFullError) Is(target error) bool { return target == syscall.ENOSPC }

// Unwrap returns the error of the operating system, nil if nothing was written.
func (e *DiskFullError) Unwrap() error { return e.Err }

// isFull reports whether err says that a disk, quota or size limit is exhausted.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}
