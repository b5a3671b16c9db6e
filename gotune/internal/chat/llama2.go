package chat

import "strings"

// The marks of Llama 2's chat form (Touvron et al., arXiv:2307.09288; Meta's
// llama/generation.py).
const (
	instBegin = "[INST]"
	instEnd   = "[/INST]"
	sysBegin  = "<<SYS>>\n"
	sysEnd    = "\n<</SYS>>\n\n"
	llamaBOS  = "<s>"
	llamaEOS  = "</s>"
)

// Prompt is what the model is asked in Llama-2 form, with system "" for none:
//
//	<s>[INST] <<SYS>>
//	system
//	<</SYS>>
//
//	prompt [/INST]
//
// It begins with the text of the BOS token: encode it without special tokens, or
// the sequence gets two. The texts are used as they are, as the walkthrough does;
// Meta's code strips white space at their ends.
func Prompt(system, prompt string) string {
	var b strings.Builder
	b.WriteString(llamaBOS + instBegin + " ")
	if system != "" {
		b.WriteString(sysBegin + system + sysEnd)
	}
	b.WriteString(prompt + " " + instEnd)
	return b.String()
}

// Turn is a question with its answer, the form of each row of guanaco-llama2-1k:
//
//	<s>[INST] prompt [/INST] answer </s>
//
// with the system prompt as in [Prompt]. Turns joined make a conversation.
func Turn(system, prompt, answer string) string {
	return Prompt(system, prompt) + " " + answer + " " + llamaEOS
}

// Answer cuts the prompt off a text that a model has generated and the end mark
// off what is left: what the assistant said. Without a mark "[/INST]" it is the
// whole text.
func Answer(text string) string {
	if i := strings.LastIndex(text, instEnd); i >= 0 {
		text = text[i+len(instEnd):]
	}
	text, _, _ = strings.Cut(text, llamaEOS)
	return strings.TrimSpace(text)
}

// HasBOS says whether a text begins with the text of the BOS token, so that
// encoding it with special tokens would give two.
func HasBOS(text, bos string) bool { return bos != "" && strings.HasPrefix(text, bos) }
