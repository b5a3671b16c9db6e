package ckpt

import (
	"bytes"
	"encoding/json"
	"math"

	"github.com/gotune/gotune/gotune/internal/train"
)

// writeTrainerState writes transformers' TrainerState as its save_to_json does:
// keys sorted, indented by two. Numbers that JSON can't hold become null.
func writeTrainerState(path string, s train.Snapshot) error {
	c := s.Config
	every := func(n int) int { // 0 means after the last step only
		if n == 0 {
			return s.Steps
		}
		return n
	}
	history := []map[string]any{}
	for _, e := range s.State.History {
		line := map[string]any{"step": e.Step}
		for _, v := range e.Values() {
			line[v.Name] = finite(v.Value)
		}
		history = append(history, line)
	}
	state := map[string]any{
		"best_global_step": nil, "best_metric": nil, "best_model_checkpoint": nil,
		"epoch": s.Epoch, "global_step": s.State.Step, "max_steps": s.Steps, "num_train_epochs": int(math.Ceil(float64(s.Steps) / stepsPerEpoch(s))),
		"eval_steps": every(c.EvalSteps), "logging_steps": every(c.LogSteps), "save_steps": every(c.SaveSteps),
		"is_hyper_param_search": false, "is_local_process_zero": true, "is_world_process_zero": true,
		"log_history": history, "num_input_tokens_seen": s.State.Tokens, "stateful_callbacks": map[string]any{},
		"total_flos": 0.0, "train_batch_size": c.BatchSize, "trial_name": nil, "trial_params": nil,
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(state); err != nil {
		return err
	}
	return writeFile(path, b.Bytes())
}

// stepsPerEpoch is the steps done per epoch done; before the first, all.
func stepsPerEpoch(s train.Snapshot) float64 {
	if s.State.Step == 0 || s.Epoch == 0 {
		return math.Max(1, float64(s.Steps))
	}
	return float64(s.State.Step) / s.Epoch
}

func finite(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return f
}
