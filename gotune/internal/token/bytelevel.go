package token

import (
	"strings"
	"unicode/utf8"
)

// gpt2Pattern splits GPT-2's text; ByteLevel with use_regex uses it.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// byteChar is the character that spells each byte, charByte the way back, -1 for
// a character that spells none:
// printable Latin-1 bytes stand for themselves, the other 68 for U+0100 on
// (GPT-2's bytes_to_unicode).
var byteChar, charByte = byteChars()

func byteChars() (to [256]rune, back [0x144]int16) {
	for r := range back {
		back[r] = -1
	}
	next := rune(0x100)
	for b := 0; b < 256; b++ {
		r := rune(b)
		printable := b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE
		if !printable {
			r = next
			next++
		}
		to[b] = r
		back[r] = int16(b)
	}
	return to, back
}

// byteLevelString spells the bytes of s as characters.
func byteLevelString(s string) string {
	var b strings.Builder
	b.Grow(2 * len(s))
	for i := 0; i < len(s); i++ {
		b.WriteRune(byteChar[s[i]])
	}
	return b.String()
}

// appendBytes appends the bytes that the characters of token spell. A token with
// another character in it, as an added token may be, stands for itself.
func appendBytes(b []byte, token string) []byte {
	n := len(b)
	for _, r := range token {
		if int(r) >= len(charByte) || charByte[r] < 0 {
			return append(b[:n], token...)
		}
		b = append(b, byte(charByte[r]))
	}
	return b
}

// takeUTF8 cuts complete characters off the front of b and returns them as text,
// with U+FFFD for each maximal part that can't be UTF-8 (Unicode 15, table 3-8;
// Rust's from_utf8_lossy). What may still become a character stays, unless all
// is set.
func takeUTF8(b []byte, all bool) (text string, rest []byte) {
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r != utf8.RuneError || n > 1 {
			out.Write(b[:n])
			b = b[n:]
			continue
		}
		n, open := badPrefix(b)
		if open && !all {
			break
		}
		out.WriteRune(utf8.RuneError)
		b = b[n:]
	}
	return out.String(), b
}

// badPrefix returns the length of the maximal part at the start of b, which is
// not a character, and whether more bytes could make it one.
func badPrefix(b []byte) (n int, open bool) {
	lo, hi, want := byte(0x80), byte(0xBF), 0
	switch c := b[0]; {
	case c >= 0xC2 && c <= 0xDF:
		want = 2
	case c >= 0xE0 && c <= 0xEF:
		want = 3
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		want = 4
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	default:
		return 1, false
	}
	for n = 1; n < want; n++ {
		if n == len(b) {
			return n, true
		}
		if b[n] < lo || b[n] > hi {
			return n, false
		}
		lo, hi = 0x80, 0xBF
	}
	return n, false
}
