package dataset

import (
	"fmt"
	"math"
	"math/big"
	"time"
)

// isoLayout is ISO 8601 without a zone, as Python's datetime.isoformat.
const isoLayout = "2006-01-02T15:04:05.999999999"

// isoTime formats a time that counts units since 1970.
func isoTime(n int64, unit time.Duration) string {
	perSecond := int64(time.Second / unit)
	sec, frac := n/perSecond, n%perSecond
	if frac < 0 {
		sec, frac = sec-1, frac+perSecond
	}
	return time.Unix(sec, frac*int64(unit)).UTC().Format(isoLayout)
}

// isoDate formats a day that counts from 1970-01-01.
func isoDate(days int64) string { return time.Unix(days*86400, 0).UTC().Format(time.DateOnly) }

// unsigned keeps an integer beyond int64 as a float64.
func unsigned(u uint64) any {
	if u > math.MaxInt64 {
		return float64(u)
	}
	return int64(u)
}

// twosComplement reads a big-endian signed integer.
func twosComplement(b []byte) *big.Int {
	n := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return n
}

// shiftDecimal writes n·10^-scale.
func shiftDecimal(n *big.Int, scale int) (any, error) {
	if scale < 0 || scale > 1000 {
		return nil, fmt.Errorf("a decimal with scale %d", scale)
	}
	s := new(big.Int).Abs(n).String()
	for len(s) <= scale {
		s = "0" + s
	}
	if scale > 0 {
		s = s[:len(s)-scale] + "." + s[len(s)-scale:]
	}
	if n.Sign() < 0 {
		s = "-" + s
	}
	return s, nil
}

// halfFloat widens an IEEE 754 binary16.
func halfFloat(h uint16) float64 {
	sign := 1.0
	if h&0x8000 != 0 {
		sign = -1
	}
	exp, frac := int(h>>10&31), float64(h&1023)
	switch exp {
	case 0:
		return sign * math.Ldexp(frac, -24)
	case 31:
		if frac != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1024+frac, exp-25)
}
