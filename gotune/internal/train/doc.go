// Package train runs the fine-tuning loop: it orders the examples, forms
// batches, sets the learning rate, and says when to log, evaluate, save and
// stop. It computes nothing itself (a [Stepper] does) and does no I/O (the
// [Hooks] do), so it is the same loop for every backend and every front end.
//
// Words, as transformers.Trainer uses them: a step is one update of the weights;
// it reads GradAccum micro-batches of BatchSize rows. An epoch is one pass over
// the examples; the last step of an epoch may read fewer micro-batches, and the
// last micro-batch is filled up with rows of padding, so that its shape is one
// that is compiled already.
//
// # Resuming
//
// The order of an epoch depends on Seed and the epoch's number alone, the
// learning rate on the step's number, so a [State] of a few numbers and the
// Stepper's own tensors continue a run exactly: the same batches, rates and
// losses as if it had never stopped. A peak rate that was set on the way
// ([Hooks].Before) is part of the State: it holds after a resumption from any
// later checkpoint.
package train
