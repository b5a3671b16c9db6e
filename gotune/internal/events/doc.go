// Package events writes what happens in a run to files that outlive it: event
// files for TensorBoard, and gotune's own journal, from which a front end that
// comes back redraws the whole run.
//
// # Event files
//
// A TensorBoard event file is a sequence of TFRecords, each a protocol buffer of
// type tensorflow.Event:
//
//	uint64 length | uint32 masked crc32c of the length | data | uint32 masked crc32c of the data
//
// all little-endian. The mask rotates the checksum right by 15 bits and adds
// 0xa282ead8, so that a checksum of data that holds checksums stays good. Sources:
// tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto and
// framework/summary.proto. Names of folders, files and tags are those of
// transformers' TensorBoardCallback and torch.utils.tensorboard.
//
// # Journal
//
// The journal is JSON lines, only ever appended to. See [Journal].
package events
