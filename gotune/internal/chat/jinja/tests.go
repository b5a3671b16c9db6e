package jinja

import (
	"strings"
	"unicode"
)

type testFunc func(r *renderer, v Value, a args) bool

// tests by name, as in "x is defined".
var tests map[string]testFunc

// compareTest makes a test of a comparison operator.
func compareTest(op string) testFunc {
	return func(r *renderer, v Value, a args) bool {
		if len(a.pos) == 0 {
			fail("TypeError", a.line, "the test needs an argument")
		}
		return r.compare(op, v, a.pos[0], a.line)
	}
}

func isType(names ...string) testFunc {
	return func(r *renderer, v Value, a args) bool {
		for _, n := range names {
			if typeName(v) == n {
				return true
			}
		}
		return false
	}
}

// remainder makes odd, even and divisibleby.
func remainder(by func(a args) int64, want int64) testFunc {
	return func(r *renderer, v Value, a args) bool {
		return r.equal(r.arithmetic("%", v, by(a), a.line), want)
	}
}

func init() {
	two := func(args) int64 { return 2 }
	isCallable := isType("function", "Macro", "LoopContext", "Undefined")
	tests = map[string]testFunc{
		"defined":   func(r *renderer, v Value, a args) bool { _, u := v.(Undefined); return !u },
		"undefined": isType("Undefined"),
		"none":      isType("NoneType"),
		"boolean":   isType("bool"),
		"true":      func(r *renderer, v Value, a args) bool { return v == Value(true) },
		"false":     func(r *renderer, v Value, a args) bool { return v == Value(false) },
		"integer":   isType("int"),
		"float":     isType("float"),
		"number":    isType("int", "float", "bool"),
		"string":    isType("str"),
		"mapping":   isType("dict"),
		"sequence":  isType("list", "tuple", "str", "dict", "Undefined"),
		"iterable":  isType("list", "tuple", "str", "dict", "Undefined"),
		"callable":  isCallable,
		"escaped":   func(r *renderer, v Value, a args) bool { return false },
		"odd":       remainder(two, 1),
		"even":      remainder(two, 0),
		"divisibleby": remainder(func(a args) int64 {
			return a.integer(0, "num", 0)
		}, 0),
		"upper": func(r *renderer, v Value, a args) bool {
			return cased(unicode.IsUpper, unicode.IsLower)(r, str(v), a).(bool)
		},
		"lower": func(r *renderer, v Value, a args) bool {
			return cased(unicode.IsLower, unicode.IsUpper)(r, str(v), a).(bool)
		},
		"sameas": func(r *renderer, v Value, a args) bool {
			return typeName(v) == typeName(a.get(0, "other", nil)) && same(v, a.get(0, "other", nil))
		},
		"filter": func(r *renderer, v Value, a args) bool { return knownFilter(str(v)) },
		"test":   func(r *renderer, v Value, a args) bool { return tests[str(v)] != nil },
		"in":     compareTest("in"),
		"==":     compareTest("=="), "eq": compareTest("=="), "equalto": compareTest("=="),
		"!=": compareTest("!="), "ne": compareTest("!="),
		"<": compareTest("<"), "lt": compareTest("<"), "lessthan": compareTest("<"),
		"<=": compareTest("<="), "le": compareTest("<="),
		">": compareTest(">"), "gt": compareTest(">"), "greaterthan": compareTest(">"),
		">=": compareTest(">="), "ge": compareTest(">="),
	}
}

// same is Python's "is", for values that can be compared that way.
func same(a, b Value) bool {
	switch a.(type) {
	case Tuple:
		return false
	case string:
		return strings.Compare(a.(string), b.(string)) == 0
	}
	return a == b
}
