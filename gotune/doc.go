// Package gotune fine-tunes language models of the Llama family from Go
// notebooks and programs.
//
// Nouns are literals, verbs do the work. A [Dataset], a [Model] and a [Trainer]
// are plain structs: at once the configuration, the record stored with a run,
// and the handle. Declare them at the top level of a cell; making one does
// nothing. Call their verbs under %%:
//
//	var data = gotune.Dataset{Name: "guanaco", Source: "mlabonne/guanaco-llama2-1k"}
//	var base = gotune.Model{Name: "base", Source: "NousResearch/Llama-2-7b-chat-hf"}
//	var run = gotune.Trainer{
//		Name: "llama-2-7b-miniguanaco", Model: base, Dataset: data,
//		LoRA: gotune.LoRA{Rank: 64, Alpha: 16, Dropout: 0.1, Targets: []string{"q_proj", "v_proj"}},
//	}
//	%%
//	gotune.Must(run.Train())
//
// The work is done by the engine, a process that holds models and runs and
// outlives the cell, the notebook and the browser. The first verb starts it.
// Names are identities there: a verb on a literal with a known name and the same
// fields attaches to what is there, so that every cell can be run again; with
// other fields it is [ErrConflict]; a literal with nothing but a name stands for
// what an earlier cell made, or is [ErrNotFound].
//
// Zero is the default of a field, which its comment names, or not allowed.
// Resolved fills the defaults in and checks.
//
// # What a verb shows
//
// Verbs print or draw as they work, and return what they found. In a cell that
// is a table, a progress bar, a live chart; elsewhere it is plain text on
// standard output. [SetOutput] sends it somewhere else.
//
// # A run under way
//
// From another notebook, or a terminal, a run that trains can be held
// ([Trainer.Pause], [Trainer.Resume]), given another rate
// ([Trainer.SetLearningRate]), asked ([Trainer.Sample]) and stopped
// ([Trainer.Stop]). The literal's name is enough:
//
//	gotune.Must(gotune.Trainer{Name: "llama-2-7b-miniguanaco"}.SetLearningRate(1e-4))
//
// Each is a [Control] in the run's record, and shows in its chart and table.
//
// # Errors and interrupts
//
// Verbs return errors ([Error]); [Check] and [Must] print one with its hint and
// end the program. Interrupting a cell stops its verb gracefully: a training run
// writes a checkpoint first and goes on from there when the cell is run again.
// The …Context twins stop with their context instead.
package gotune
