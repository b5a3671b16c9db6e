package wire

import "fmt"

// A Secret is a string that never prints: every formatting verb, JSON and text
// encoding show "(secret)". Only [Secret.Reveal] gives it out.
type Secret struct{ value string }

const hidden = "(secret)"

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{s} }

// Reveal returns the string itself.
func (s Secret) Reveal() string { return s.value }

// Empty says whether there is nothing to hide.
func (s Secret) Empty() bool { return s.value == "" }

// String returns "(secret)", or nothing for an empty secret.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return hidden
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// Format writes String whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// MarshalText returns String, so that encoders and loggers hide the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the text as the secret.
func (s *Secret) UnmarshalText(b []byte) error {
	s.value = string(b)
	return nil
}
