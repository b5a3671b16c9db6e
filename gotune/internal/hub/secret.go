package hub

import (
	"fmt"
	"log/slog"
)

// A Secret is a token that doesn't print: every format verb, encoding/json,
// encoding/xml, slog and text templates show "[secret]", or "" when it is empty.
// Reveal is the one way to the value.
type Secret struct{ value string }

// NewSecret wraps value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the value itself. Use it only where it is sent.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.value == "" }

// String returns "[secret]", or "" when there is none.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return "[secret]"
}

// GoString is String quoted, for %#v.
func (s Secret) GoString() string { return fmt.Sprintf("hub.Secret{%q}", s.String()) }

// Format writes String whatever the verb is, so %x doesn't leak the bytes.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('#') {
		fmt.Fprint(f, s.GoString())
		return
	}
	fmt.Fprint(f, s.String())
}

// MarshalJSON writes the string of String.
func (s Secret) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, "%q", s.String()), nil }

// MarshalText writes String.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue is String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
