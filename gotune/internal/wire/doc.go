// Package wire is the protocol between a client (a notebook cell, a script,
// the command gotune) and the engine: JSON lines over a Unix socket, one
// request a connection.
//
//	-> {"v":1,"verb":"run.train","dir":"/home/me/nb","env":{"HF_TOKEN":"…"},"args":{…}}
//	<- {"event":"progress","data":{"task":"quantize","done":12,"total":35,"unit":"tensors"}}
//	<- {"event":"step","data":{…}}        zero or more events
//	-> {"cancel":true}                    at any time: stop gracefully
//	<- {"reply":{…}}  or  {"error":{"kind":"notfound",…}}
//
// A line ends in "\n" and holds at most [MaxLine] bytes. The first line of a
// connection is the [Request]; after the reply or the error the server closes.
// A connection that drops means that nobody waits for the answer: a server
// stops what only the caller wanted (a load, a generation, an upload) and goes
// on with what others may come back for (a training run).
//
// # Verbs
//
// Nouns and options (Dataset, Model, Trainer, Sampling, …) are the structs of
// package gotune with their Go field names.
//
//	verb            args                              reply (gotune type)
//	ping                                              Pong
//	doctor                                            DoctorInfo
//	status                                            StatusInfo
//	free                                              StatusInfo
//	shutdown                                          Pong
//	dataset.load    {Dataset}                         DatasetInfo
//	dataset.rows    {Dataset, Offset, Limit}          Rows
//	dataset.lengths {Dataset, Model}                  Lengths
//	model.load      {Model}                           ModelInfo
//	model.unload    {Model}                           StatusInfo
//	model.generate  {Model, Prompt, Sampling}         Generation   (token events)
//	model.generateall {Model, Prompts, Sampling}      []Generation
//	run.train       {Trainer}                         RunInfo      (step and control events)
//	run.attach      {Name}                            RunInfo      (step and control events)
//	run.stop        {Name}                            RunInfo
//	run.pause       {Name}                            RunInfo with Controls
//	run.resume      {Name}                            RunInfo with Controls
//	run.setlr       {Name, LearningRate}              RunInfo with Controls
//	run.sample      {Name, Prompt, Sampling}          Generation   (token events)
//	run.record      {Name, OutputDir}                 RunInfo with Records and Controls
//	run.save        {Name, Dir}                       SaveInfo
//	run.generate    {Name, Prompt, Sampling}          Generation   (token events)
//	run.generateall {Name, Prompts, Sampling}         []Generation
//	run.merge       {Name, Dir, Options}              MergeInfo
//	push            {Dir, Repo, Options}              PushInfo
//
// run.train and run.attach first send the run's whole history as step and
// control events in their order, then live ones. Every verb may send progress
// and log events.
//
// run.pause, run.resume and run.setlr answer when what they ask for holds: at
// the end of the step under way. Until then the caller can cancel them. They and
// run.sample are errors of kind invalid for a run that is not under way.
//
// # Safety
//
// The socket has mode 0600 in a folder of mode 0700, and the server looks at
// the peer's user id besides. Values of env are [Secret]: they print as
// "(secret)" everywhere but on the wire itself.
//
// The package uses neither net nor net/http: a notebook cell is linked anew
// each time it runs, and those two would double the time that takes.
package wire
