// Package kernelext is the Jupyter kernel "Go (gotune)": a front end to GoNB that keeps the
// Jupyter protocol, owns the processes it starts and knows the %gotune magics.
//
//	Jupyter ── ZeroMQ ── kernelext ── guard ── gonb ── the cell's program
//	                         │                             │
//	                         └─── starts, asks ── engine ──┘   (outside the guard: it outlives kernels)
//
// # Terminate, do not pipe
//
// Every message from a client is checked completely before anything else sees it: delimiter, parts,
// signature, replay, four JSON objects, identity and type. What is wrong is dropped with a log line;
// GoNB ends on most of it. Requests that GoNB does not answer, or answers late, are answered here
// (kernel_info, is_complete, history, comm_info, interrupt, shutdown, heartbeat); cells, completion,
// inspection, comms and input are relayed. GoNB gets one cell at a time, so that stop_on_error and
// interrupts can answer the queue behind it.
//
// # Processes
//
// The kernel starts a guard, the guard starts gonb. The guard is the reaper of all that gonb leaves
// and reads a pipe from the kernel: when that pipe closes, for whatever reason, also kill -9, it ends
// the whole tree and removes its folders. The engine is no part of the tree.
//
// Jupyter restarts a kernel with an interrupt and a shutdown right after it. An interrupt therefore waits 50 ms, and
// the guard ends a cell's program by SIGTERM before gonb, which would send it SIGINT, hears of the end: an
// interrupt stops a training run, a restart leaves it to the engine.
//
// A TensorBoard (%tensorboard) belongs to no kernel. Each kernel that shows it holds a shared lock on a file; its
// keeper, a process of its own session, waits for the exclusive lock, which it gets when the last of them is gone,
// however it went.
//
// # Beside a busy cell
//
// A cell of nothing but magics that only ask the engine runs at once while another one is under way, if it is sent
// by itself: what "Run All" sends keeps its order. GoNB counts such cells later, by empty ones.
//
// # What GoNB lacks
//
// Seen with GoNB v0.11.4, and made good here: NAME? shows help by the protocol's pager; a program's escape sequence
// that clears the terminal becomes clear_output; an inspection that finds nothing says so; %wasm finds wasm_exec.js
// where Go 1.24 and later have it. gonb_test.go holds all the rest against plain GoNB, message by message.
//
// # The import
//
// import "github.com/gotune/gotune/gotune" works in the first cell, without a network, through a file
// module proxy that holds the client's sources as this binary was built with them ([WriteModule]).
//
// Protocol: https://jupyter-client.readthedocs.io/en/stable/messaging.html, version 5.4.
package kernelext
