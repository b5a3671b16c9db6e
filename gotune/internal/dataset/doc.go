// Package dataset reads the rows of a data set for fine-tuning: a file, a folder
// of shards, a folder that datasets.save_to_disk wrote, or a repository of the
// Hugging Face Hub.
//
// # Formats
//
// Parquet (snappy, gzip, brotli, zstd, lz4_raw; nested columns), JSON lines, a JSON array, CSV and TSV,
// plain text (a row a line), Arrow IPC files and streams; JSON, CSV and text also
// behind gzip. The values are what the Python library datasets 5 gives for the
// same file: an empty CSV text, for one, is null.
//
// # Splits
//
// Which files make up "train", "validation" and "test" follows the same library:
// the README's data_files, then data/train-00000-of-00003.parquet and the like,
// then folder and file names with a word such as "train", "dev" or "eval"; with
// none of them all files are "train". A split may be cut and joined:
//
//	train[:100]   train[10%:]   train[:80%]+test[-50:]
//
// # Memory
//
// Rows stream in and are kept as strings: the text column as it is, the other
// columns of a row as one line of JSON. Nothing else of a file stays.
//
// # Hostile files
//
// A data set is a download like any other. Every length in a file is compared
// with what the file can hold before memory is set aside for it, nesting is
// bounded, and a file that is cut or inconsistent is an [*Error], never a panic.
package dataset
