package jinja

// An expr is a node that has a value.
type expr interface{ eval(r *renderer) Value }

// A stmt is a node that writes output or sets names.
type stmt interface{ exec(r *renderer) signal }

// A signal says why a statement list ended.
type signal int

const (
	next signal = iota
	breakLoop
	continueLoop
)

type (
	literal   struct{ v Value }
	nameExpr  struct{ name string }
	listExpr  struct{ items []expr }
	tupleExpr struct{ items []expr }
	dictExpr  struct {
		keys, values []expr
		line         int
	}
	attrExpr struct {
		of   expr
		name string
		line int
	}
	itemExpr struct {
		of, key expr
		line    int
	}
	sliceExpr struct{ start, stop, step expr } // each may be nil
	callExpr  struct {
		of   expr
		args argList
		line int
	}
	filterExpr struct {
		of   expr // nil in a filter block
		name string
		args argList
		line int
	}
	testExpr struct {
		of   expr
		name string
		args argList
		not  bool
		line int
	}
	binaryExpr struct {
		op          string
		left, right expr
		line        int
	}
	compareExpr struct {
		first expr
		ops   []string
		rest  []expr
		line  int
	}
	unaryExpr struct {
		op   string
		of   expr
		line int
	}
	condExpr struct{ cond, then, els expr } // els may be nil
)

// argList are the arguments of a call as written.
type argList struct {
	pos        []expr
	names      []string
	kw         []expr
	star, dict expr // *args, **kwargs
}

type (
	dataStmt   struct{ text string }
	outputStmt struct {
		of   expr
		line int
	}
	forStmt struct {
		targets   target
		in        expr
		filter    expr
		body, els []stmt
		recursive bool
		line      int
	}
	ifStmt struct {
		conds  []expr
		bodies [][]stmt
		els    []stmt
	}
	setStmt struct {
		to   target
		from expr
		line int
	}
	setBlockStmt struct {
		to      target
		filters []*filterExpr
		body    []stmt
		line    int
	}
	macroStmt struct {
		name     string
		params   []string
		defaults []expr // of the last parameters
		body     []stmt
		line     int
	}
	callStmt struct {
		call  *callExpr
		block *macroStmt
		line  int
	}
	filterStmt struct {
		filters []*filterExpr
		body    []stmt
		line    int
	}
	withStmt struct {
		targets []target
		values  []expr
		body    []stmt
		line    int
	}
	generationStmt struct{ body []stmt }
	breakStmt      struct{}
	continueStmt   struct{}
)

// A target is what an assignment sets: a name, an attribute of a namespace, or
// several targets.
type target struct {
	name, attr string
	tuple      []target
}
