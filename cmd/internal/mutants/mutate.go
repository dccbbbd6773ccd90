package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strconv"
	"strings"
)

// mutant is one change of one file. All mutants of a package are compiled at once, each behind a
// switch (see switches): the original code is wrapped in text that changes nothing unless the mutant
// is on.
type mutant struct {
	file          string // relative to the module
	line          int
	function      string // Type.Method, or the name that a declaration outside of functions declares
	before, after string // the change in one line, shortened, for people
	ordinal       int    // counts from 1 the mutants of the function with the same before and after
	id            int    // the value of $MUTANT that turns it on

	start, end  int    // the range of bytes in the file that is wrapped
	open, close string // the text around that range; $ stands for the ID
	constant    int    // the offset of a const that has to become a var, or 0
}

// name identifies the mutant. It changes only if this part of the function is edited.
func (m mutant) name() string {
	name := fmt.Sprintf("%s: %s: %s → %s", m.file, m.function, m.before, m.after)
	if m.ordinal > 1 {
		name += fmt.Sprintf(" #%d", m.ordinal)
	}
	return name
}

// String returns the name with the line number.
func (m mutant) String() string {
	return fmt.Sprintf("%s:%d%s", m.file, m.line, strings.TrimPrefix(m.name(), m.file))
}

// switched returns a file with mutants. They must be sorted by start; of several with the same start,
// the longest has to come first.
func switched(source []byte, mutants []mutant) []byte {
	source = slices.Clone(source)
	for _, m := range mutants {
		if m.constant > 0 {
			copy(source[m.constant:], "var  ")
		}
	}
	var out []byte
	at := 0
	var open []mutant // the innermost is the last
	closeUntil := func(start int) {
		for len(open) > 0 && open[len(open)-1].end <= start {
			m := open[len(open)-1]
			open = open[:len(open)-1]
			out = append(append(out, source[at:m.end]...), m.withID(m.close)...)
			at = m.end
		}
	}
	for _, m := range mutants {
		closeUntil(m.start)
		out = append(append(out, source[at:m.start]...), m.withID(m.open)...)
		at = m.start
		open = append(open, m)
	}
	closeUntil(len(source))
	return append(out, source[at:]...)
}

func (m mutant) withID(text string) string {
	return strings.ReplaceAll(text, "$", strconv.Itoa(m.id))
}

// mutate returns the mutants of a file in the order that switched needs. Some of them may not compile.
func mutate(
	fset *token.FileSet, path string, source []byte, file *ast.File, pkg *types.Package, info *types.Info,
) []mutant {
	w := &walker{fset: fset, path: path, source: source, pkg: pkg, info: info}
	ast.PreorderStack(file, nil, w.visit)
	slices.SortStableFunc(w.mutants, func(a, b mutant) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end))
	})
	seen := make(map[string]int)
	for i := range w.mutants {
		name := w.mutants[i].name()
		seen[name]++
		w.mutants[i].ordinal = seen[name]
	}
	return w.mutants
}

type walker struct {
	fset    *token.FileSet
	path    string
	source  []byte
	pkg     *types.Package
	info    *types.Info
	mutants []mutant

	function string // see mutant
	constant int    // see mutant
}

// visit adds the mutants of a node, and reports whether its children have to be visited, too.
func (w *walker) visit(n ast.Node, parents []ast.Node) bool {
	var parent ast.Node
	if len(parents) > 0 {
		parent = parents[len(parents)-1]
	}
	w.constant = 0
	for _, p := range parents {
		if d, ok := p.(*ast.GenDecl); ok && d.Tok == token.CONST {
			w.constant = w.offset(d.Pos())
		}
	}
	if e, ok := n.(ast.Expr); ok && w.isBool(e) && isValue(e, parent) {
		w.condition(e, parent)
	}
	switch n := n.(type) {
	case *ast.FuncDecl:
		w.function = nameOf(n)
	case *ast.ValueSpec:
		if _, isFile := parents[0].(*ast.File); isFile && len(parents) == 2 {
			w.function = n.Names[0].Name
		}
	case *ast.ImportSpec, *ast.TypeSpec:
		return false
	case *ast.CallExpr:
		if w.isText(n) {
			return false
		}
		w.swapMinMax(n)
	case *ast.IfStmt, *ast.SwitchStmt:
		if w.isTextStatement(n.(ast.Stmt)) {
			return false
		}
	case *ast.BlockStmt:
		_, inIf := parent.(*ast.IfStmt)
		w.dropStatements(n.List, inIf)
	case *ast.CaseClause:
		w.dropStatements(n.Body, true)
		if s, ok := parents[len(parents)-2].(*ast.SwitchStmt); ok && s.Tag != nil {
			w.dropCase(n, s.Tag)
		}
	case *ast.CommClause:
		w.dropStatements(n.Body, false)
		w.dropChannel(n)
	case *ast.ReturnStmt:
		w.dropErrors(n, parents)
	case *ast.AssignStmt:
		switch n.Tok {
		case token.ADD_ASSIGN:
			w.swap(n, n.TokPos, n.Tok, token.SUB_ASSIGN, n.Lhs[0])
		case token.SUB_ASSIGN:
			w.swap(n, n.TokPos, n.Tok, token.ADD_ASSIGN, n.Lhs[0])
		}
	case *ast.BinaryExpr:
		w.binary(n)
	case *ast.BasicLit:
		w.number(n, parent)
	}
	return true
}

func nameOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	receiver := f.Recv.List[0].Type
	for {
		switch t := receiver.(type) {
		case *ast.StarExpr:
			receiver = t.X
		case *ast.IndexExpr: // of a generic type
			receiver = t.X
		case *ast.Ident:
			return t.Name + "." + f.Name.Name
		}
	}
}

// text returns the source from one node to another.
func (w *walker) text(from, to ast.Node) string {
	return string(w.source[w.offset(from.Pos()):w.offset(to.End())])
}

func (w *walker) offset(p token.Pos) int { return w.fset.Position(p).Offset }

// wrap adds a mutant that wraps the source from one node to another.
func (w *walker) wrap(from, to ast.Node, open, end, before, after string) {
	w.mutants = append(w.mutants, mutant{
		file: w.path, line: w.fset.Position(from.Pos()).Line, function: w.function,
		before: brief(before), after: brief(after),
		start: w.offset(from.Pos()), end: w.offset(to.End()), open: open, close: end, constant: w.constant,
	})
}

// force adds the mutant in which e always has the given value. The operands of e are still evaluated.
func (w *walker) force(e ast.Expr, value bool, before, after string) {
	end := ") && !mutantOn($))"
	if value {
		end = ") || mutantOn($))"
	}
	w.wrap(e, e, "((", end, before, after)
}

// pick adds the mutant that has another expression instead of e.
func (w *walker) pick(e ast.Expr, other, before, after string) {
	t := types.Default(w.info.TypeOf(e))
	if w.info.Types[e].IsNil() || t == types.Typ[types.UntypedNil] {
		return
	}
	w.pickType(e, t, other, before, after)
}

func (w *walker) pickType(e ast.Expr, t types.Type, other, before, after string) {
	name := types.TypeString(t, w.qualifier)
	w.wrap(e, e, "mutantPick($, func() "+name+" { return ", " }, func() "+name+" { return "+other+" })", before, after)
}

func (w *walker) qualifier(p *types.Package) string {
	if p == w.pkg {
		return ""
	}
	return p.Name()
}

// inParent returns a replacement of e, for people: as a change of the parent if the parent is short.
func (w *walker) inParent(e, parent ast.Node, replacement string) (before, after string) {
	text, begin := w.text(parent, parent), w.offset(parent.Pos())
	start, end := w.offset(e.Pos())-begin, w.offset(e.End())-begin
	if brief(text) != strings.Join(strings.Fields(text), " ") {
		return w.text(e, e), replacement
	}
	return text, text[:start] + replacement + text[end:]
}

// brief returns source in one line, shortened.
func brief(source string) string {
	const most = 80
	line := []rune(strings.Join(strings.Fields(source), " "))
	if len(line) > most {
		line = append(line[:most-1], '…')
	}
	return string(line)
}

// isText reports whether a call makes or logs text for people, panics, or is a crash point.
func (w *walker) isText(call *ast.CallExpr) bool {
	var name *ast.Ident
	switch f := ast.Unparen(call.Fun).(type) {
	case *ast.Ident:
		name = f
	case *ast.SelectorExpr:
		name = f.Sel
	default:
		return false
	}
	switch object := w.info.Uses[name]; {
	case object == nil:
		return false
	case object.Pkg() == nil:
		return object.Name() == "panic"
	case object.Pkg().Path() == "errors":
		return object.Name() == "New"
	default:
		return slices.Contains([]string{"fmt", "github.com/rs/zerolog"}, object.Pkg().Path()) ||
			strings.HasSuffix(object.Pkg().Path(), "/crashpoint")
	}
}

// isTextStatement reports whether a statement consists only of calls for which isText is true.
func (w *walker) isTextStatement(s ast.Stmt) bool {
	areText := func(list []ast.Stmt) bool {
		return !slices.ContainsFunc(list, func(s ast.Stmt) bool { return !w.isTextStatement(s) })
	}
	switch s := s.(type) {
	case *ast.IfStmt:
		return areText(s.Body.List) && (s.Else == nil || w.isTextStatement(s.Else))
	case *ast.BlockStmt:
		return areText(s.List)
	case *ast.SwitchStmt:
		return areText(s.Body.List)
	case *ast.CaseClause:
		return areText(s.Body)
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		return ok && w.isText(call)
	case *ast.AssignStmt: // log = log.Int("code", code)
		call, ok := s.Rhs[0].(*ast.CallExpr)
		return ok && w.isText(call) && strings.HasSuffix(w.info.TypeOf(s.Lhs[0]).String(), "zerolog.Event")
	}
	return false
}

// dropStatements adds a mutant for each statement that can be left out. conditional says that the
// list is run only if a condition is true.
func (w *walker) dropStatements(list []ast.Stmt, conditional bool) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt, *ast.AssignStmt:
			assignment, ok := s.(*ast.AssignStmt)
			if w.isTextStatement(s) || ok && assignment.Tok == token.DEFINE {
				continue
			}
		case *ast.IncDecStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt, *ast.RangeStmt:
		case *ast.BranchStmt:
			if s.Tok != token.BREAK && s.Tok != token.CONTINUE {
				continue
			}
		case *ast.ReturnStmt:
			if conditional && len(list) == 1 {
				continue // nearly the same as the condition that is always false
			}
		default:
			continue
		}
		w.wrap(s, s, "if !mutantOn($) { ", " }", w.text(s, s), "no statement")
	}
}

// dropCase adds the mutants without a case of a switch, and without each of several values of a case.
func (w *walker) dropCase(c *ast.CaseClause, tag ast.Expr) {
	if c.List == nil { // default
		if len(c.Body) > 0 {
			w.wrap(c.Body[0], c.Body[len(c.Body)-1], "if !mutantOn($) { ", " }", w.text(c, c), "no case")
		}
		return
	}
	without := func(at ast.Node, values, before, after string) {
		t := types.TypeString(types.Default(w.info.TypeOf(tag)), w.qualifier)
		w.wrap(tag, tag, "mutantWithout["+t+"]($, ", ", "+values+")", before, after)
		w.mutants[len(w.mutants)-1].line = w.fset.Position(at.Pos()).Line
	}
	without(c, w.text(c.List[0], c.List[len(c.List)-1]), w.text(c, c), "no case")
	if len(c.List) < 2 {
		return
	}
	for _, value := range c.List {
		without(value, w.text(value, value), "case "+w.text(value, value), "no value")
	}
}

// dropChannel adds the mutant without a case of a select, unless the case is the default.
func (w *walker) dropChannel(c *ast.CommClause) {
	var channel ast.Expr
	ast.Inspect(c, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CommClause:
			return true
		case *ast.SendStmt:
			if n == c.Comm {
				channel = n.Chan
			}
			return false
		case *ast.UnaryExpr:
			if n.Op == token.ARROW && c.Comm != nil && n.End() <= c.Comm.End() && channel == nil {
				channel = n.X
			}
			return false
		case ast.Stmt:
			return n == c.Comm
		}
		return true
	})
	if channel != nil {
		w.wrap(channel, channel, "mutantChannel($, ", ")", w.text(c, c), "no case")
		w.mutants[len(w.mutants)-1].line = w.fset.Position(c.Pos()).Line
	}
}

// dropErrors adds the mutants that return nil instead of an error.
func (w *walker) dropErrors(r *ast.ReturnStmt, parents []ast.Node) {
	results := w.results(parents)
	if results == nil || results.Len() != len(r.Results) {
		return
	}
	for i, e := range r.Results {
		if results.At(i).Type().String() == "error" && !w.info.Types[e].IsNil() {
			before, after := w.inParent(e, r, "nil")
			w.pickType(e, types.Universe.Lookup("error").Type(), "nil", before, after)
		}
	}
}

// besideError reports whether a statement returns an error together with other values, which callers
// then ignore.
func (w *walker) besideError(parent ast.Node) bool {
	r, ok := parent.(*ast.ReturnStmt)
	if !ok {
		return false
	}
	last := r.Results[len(r.Results)-1]
	return w.implementsError(last) && !w.info.Types[last].IsNil()
}

func (w *walker) implementsError(e ast.Expr) bool {
	t := w.info.TypeOf(e)
	return t != nil && types.Implements(t, types.Universe.Lookup("error").Type().Underlying().(*types.Interface))
}

// results returns the result types of the innermost function.
func (w *walker) results(parents []ast.Node) *types.Tuple {
	for _, p := range slices.Backward(parents) {
		switch f := p.(type) {
		case *ast.FuncLit:
			return w.info.TypeOf(f).(*types.Signature).Results()
		case *ast.FuncDecl:
			return w.info.Defs[f.Name].Type().(*types.Signature).Results()
		}
	}
	return nil
}

func (w *walker) isBool(e ast.Expr) bool {
	t := w.info.Types[e]
	if t.Type == nil || !t.IsValue() {
		return false
	}
	basic, ok := t.Type.Underlying().(*types.Basic)
	return ok && basic.Info()&types.IsBoolean != 0
}

// isValue reports whether the value of e is used as a whole, and is not an operand of a condition.
func isValue(e ast.Expr, parent ast.Node) bool {
	switch p := parent.(type) {
	case *ast.IfStmt, *ast.ForStmt, *ast.CaseClause, *ast.ReturnStmt, *ast.ValueSpec, *ast.CompositeLit, *ast.SendStmt:
		return true
	case *ast.AssignStmt:
		return slices.Contains(p.Rhs, e)
	case *ast.CallExpr:
		return slices.Contains(p.Args, e)
	case *ast.KeyValueExpr:
		return p.Value == e
	}
	return false
}

// condition adds the mutants in which a boolean value is always true, and always false.
func (w *walker) condition(e ast.Expr, parent ast.Node) {
	text := w.text(e, e)
	if text == "true" || text == "false" {
		if w.besideError(parent) {
			return
		}
		before, after := w.inParent(e, parent, strconv.FormatBool(text == "false"))
		w.force(e, text == "false", before, after)
		return
	}
	if _, loop := parent.(*ast.ForStmt); !loop { // the loop would never end
		w.force(e, true, text, "true")
	}
	w.force(e, false, text, "false")
}

// binary adds the mutants of a binary operator.
func (w *walker) binary(b *ast.BinaryExpr) {
	switch b.Op {
	case token.LAND, token.LOR:
		for _, side := range [][2]ast.Expr{{b.X, b.Y}, {b.Y, b.X}} {
			this, other := side[0], side[1]
			if inner, ok := ast.Unparen(this).(*ast.BinaryExpr); ok && inner.Op == b.Op {
				continue
			}
			w.force(this, b.Op == token.LAND, w.text(b, b), w.text(other, other))
		}
	case token.OR, token.AND, token.AND_NOT:
		w.pick(b, w.text(b.X, b.X), w.text(b, b), w.text(b.X, b.X))
		if b.Op == token.OR {
			w.pick(b, w.text(b.Y, b.Y), w.text(b, b), w.text(b.Y, b.Y))
		}
	case token.MUL, token.QUO:
		if w.info.Types[b].Value == nil { // in a constant, number changes the literals
			w.swap(b, b.OpPos, b.Op, map[token.Token]token.Token{token.MUL: token.QUO, token.QUO: token.MUL}[b.Op], b)
		}
	default:
		swapped, ok := map[token.Token]token.Token{
			token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
			token.ADD: token.SUB, token.SUB: token.ADD,
		}[b.Op]
		if ok {
			w.swap(b, b.OpPos, b.Op, swapped, b.X)
		}
	}
}

// swap adds the mutant with another operator, unless the operand is not a number.
func (w *walker) swap(n ast.Node, at token.Pos, from, to token.Token, operand ast.Expr) {
	if basic, ok := w.info.TypeOf(operand).Underlying().(*types.Basic); ok && basic.Info()&types.IsNumeric == 0 {
		return
	}
	text, start := w.text(n, n), w.offset(at)-w.offset(n.Pos())
	after := text[:start] + to.String() + text[start+len(from.String()):]
	if e, ok := n.(ast.Expr); ok {
		w.pick(e, after, text, after)
	} else {
		w.wrap(n, n, "if mutantOn($) { "+after+" } else { ", " }", text, after)
	}
}

// swapMinMax adds the mutant with max instead of min, or min instead of max.
func (w *walker) swapMinMax(call *ast.CallExpr) {
	name, ok := call.Fun.(*ast.Ident)
	if !ok {
		return
	}
	other, ok := map[string]string{"min": "max", "max": "min"}[name.Name]
	if _, builtin := w.info.Uses[name].(*types.Builtin); ok && builtin {
		text := w.text(call, call)
		after := other + strings.TrimPrefix(text, name.Name)
		w.pick(call, after, text, after)
	}
}

// number adds the mutant of a number: a small number is changed by one; a large one, or a time, to 0.
func (w *walker) number(l *ast.BasicLit, parent ast.Node) {
	if l.Kind != token.INT && l.Kind != token.FLOAT || w.besideError(parent) {
		return
	}
	b, ok := parent.(*ast.BinaryExpr)
	if ok && b.Y == l && (b.Op == token.GEQ || b.Op == token.LSS) && l.Value != "1" {
		return // binary makes >= 0 to > 0, which is the same as >= 1
	}
	n, err := strconv.Atoi(l.Value)
	isTime := w.info.TypeOf(l).String() == "time.Duration"
	other := strconv.Itoa(n + 1)
	switch {
	case isTime && n == 0 && err == nil:
		return
	case isTime, err != nil, n > 16, n == 1:
		other = "0"
	}
	before, after := w.inParent(l, parent, other)
	w.pick(l, other, before, after)
}
