// Package hub talks to the Hugging Face Hub: it downloads models and data sets
// into the cache that huggingface_hub and transformers share, and pushes
// folders as commits.
//
// # Cache
//
// The layout is huggingface_hub's, so either library finds what the other one
// fetched:
//
//	$HF_HOME/hub/models--OWNER--NAME/
//		blobs/ETAG                    the bytes; ETAG is a sha256 or a git blob id
//		refs/main                     the commit that "main" stood for
//		snapshots/COMMIT/config.json  a relative link to ../../blobs/ETAG
//	$HF_HOME/hub/.locks/models--OWNER--NAME/ETAG.lock
//
// A download goes to blobs/ETAG.incomplete under the lock, is resumed with a
// Range request after a cut, and is renamed only when its length and its digest
// equal what the Hub announced: a cut or flipped file never gets its final name.
//
// # Secrets
//
// A token is a [Secret]: no format verb and no encoder prints it. It is sent to
// the endpoint's own origin and never follows a redirect to another one.
//
// # Failures
//
// Every error is an [*Error] that says what was done to what, what was found
// and wanted, and what to do next; its kind is one of the Err… sentinels.
// Timeouts, 408, 429 and 5xx answers are tried again (see [Client.Retries]),
// except a commit, whose outcome would be unknown.
//
// This is the only package of gotune that uses the network.
package hub
