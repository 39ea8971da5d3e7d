package scripting

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"go.starlark.net/resolve"
	"go.starlark.net/starlark"
	"go.starlark.net/starlarkstruct"
	"go.starlark.net/syntax"
)

// maxLoadSteps bounds the top level of all files of a script, in Starlark steps.
const maxLoadSteps = 10_000_000

// Load reads, checks and runs the top level of a script. The source provider
// is rooted at the script's root; filename and all load() paths are slash
// separated and stay below it. Errors in the script are *ScriptError.
func Load(src Source, filename string, reg *Registry) (*Program, error) {
	l := newLoader(src, reg)
	l.program.file = filename
	globals, err := l.file(filename)
	if err != nil {
		var script *ScriptError
		if !errors.As(err, &script) {
			err = &ScriptError{Where: filename, Text: err.Error(), Err: err}
		}
		return nil, err
	}
	return l.finish(globals)
}

type loader struct {
	src     Source
	program *Program
	globals starlark.StringDict // predeclared
	loaded  map[string]*loadedFile
}

type loadedFile struct {
	globals starlark.StringDict
	err     error
	open    bool // being loaded: a cycle if asked for again
}

func newLoader(src Source, reg *Registry) *loader {
	return &loader{src: src, loaded: map[string]*loadedFile{},
		program: &Program{registry: reg, files: map[string]string{}}, globals: predeclared(reg)}
}

// predeclared are the words of a script: types, builtins and struct.
func predeclared(reg *Registry) starlark.StringDict {
	out := starlark.StringDict{"struct": starlark.NewBuiltin("struct", starlarkstruct.Make)}
	for name, t := range reg.types {
		if _, universal := starlark.Universe[name]; !universal {
			out[name] = typeValue(reg, t)
		}
	}
	for name, b := range reg.builtins {
		out[name] = starlark.NewBuiltin(name, func(thread *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			return callBuiltin(thread, reg, b, args, kwargs)
		})
	}
	return out
}

// typeValue makes a type callable: duration("10m").
func typeValue(reg *Registry, t *Type) starlark.Value {
	return starlark.NewBuiltin(t.Name, func(_ *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var v starlark.Value
		if err := starlark.UnpackPositionalArgs(b.Name(), args, kwargs, 1, &v); err != nil {
			return nil, err
		}
		p, err := toPlain(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		c, err := t.take(p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		return canonicalValue(reg, t, c)
	})
}

// newThread is the only maker of threads: steps, printing, loading and
// cancellation are the same for all. Release gives the context back.
func newThread(ctx context.Context, name string, maxSteps uint64, print func(string), load func(string) (starlark.StringDict, error)) (t *starlark.Thread, release func() bool) {
	t = &starlark.Thread{Name: name}
	t.Print = func(_ *starlark.Thread, msg string) { print(msg) }
	t.Load = func(_ *starlark.Thread, module string) (starlark.StringDict, error) {
		if load == nil {
			return nil, fmt.Errorf("load is for the top of a file")
		}
		return load(module)
	}
	t.SetMaxExecutionSteps(maxSteps)
	t.OnMaxSteps = func(t *starlark.Thread) {
		t.Cancel(fmt.Sprintf("more than %d steps: is there a loop that does not end?", maxSteps))
	}
	t.SetLocal(localContext, ctx)
	return t, context.AfterFunc(ctx, func() { t.Cancel(context.Cause(ctx).Error()) })
}

// Keys of thread locals.
const (
	localContext = "context"
	localLoader  = "loader"
	localSession = "session"
)

// options of all files. Sets and while loops are left out on purpose: a script
// is a runbook.
func fileOptions() *syntax.FileOptions { return &syntax.FileOptions{} }

// file runs the top level of one file, once.
func (l *loader) file(name string) (starlark.StringDict, error) {
	if f := l.loaded[name]; f != nil {
		if f.open {
			return nil, fmt.Errorf("%s loads itself, directly or through others", name)
		}
		return f.globals, f.err
	}
	f := &loadedFile{open: true}
	l.loaded[name] = f
	f.globals, f.err = l.run(name)
	f.open = false
	return f.globals, f.err
}

func (l *loader) run(name string) (starlark.StringDict, error) {
	if !fs.ValidPath(name) || name == "." {
		return nil, fmt.Errorf("%s: a script's files stay below its root; write a path such as lib/checks.star", name)
	}
	text, err := l.src(name)
	if err != nil {
		return nil, err
	}
	l.program.files[name] = text
	prog, doc, err := compile(name, text, fileOptions(), l.globals, nil)
	if err != nil {
		return nil, err
	}
	if name == l.program.file {
		l.program.doc = doc
	}
	thread, release := newThread(context.Background(), name, maxLoadSteps, func(string) {}, func(module string) (starlark.StringDict, error) {
		if strings.HasPrefix(module, "./") || strings.HasPrefix(module, "../") {
			module = path.Join(path.Dir(name), module)
		}
		return l.file(module)
	})
	defer release()
	thread.SetLocal(localLoader, l)
	globals, err := prog.Init(thread, l.globals)
	globals.Freeze()
	if err != nil {
		return nil, scriptError(err, l.program.files)
	}
	return globals, nil
}

// compile parses and resolves a file; edit, if given, changes the syntax tree.
func compile(name, text string, opts *syntax.FileOptions, globals starlark.StringDict, edit func(*syntax.File)) (*starlark.Program, string, error) {
	f, err := opts.Parse(name, text, 0)
	if err != nil {
		return nil, "", scriptError(err, map[string]string{name: text})
	}
	names := slices.Concat(slices.Collect(maps.Keys(globals)), slices.Collect(maps.Keys(starlark.Universe)), defined(f))
	slices.Sort(names)
	if edit != nil {
		edit(f)
	}
	prog, err := starlark.FileProgram(f, globals.Has)
	if err != nil {
		return nil, "", resolveError(err, names, map[string]string{name: text})
	}
	return prog, docstring(f), nil
}

// defined lists the names that a file's top level makes.
func defined(f *syntax.File) []string {
	var out []string
	for _, s := range f.Stmts {
		switch s := s.(type) {
		case *syntax.DefStmt:
			out = append(out, s.Name.Name)
		case *syntax.AssignStmt:
			syntax.Walk(s.LHS, func(n syntax.Node) bool {
				if id, ok := n.(*syntax.Ident); ok {
					out = append(out, id.Name)
				}
				return true
			})
		case *syntax.LoadStmt:
			for _, id := range s.To {
				out = append(out, id.Name)
			}
		}
	}
	return out
}

func docstring(f *syntax.File) string {
	if len(f.Stmts) == 0 {
		return ""
	}
	e, ok := f.Stmts[0].(*syntax.ExprStmt)
	if !ok {
		return ""
	}
	lit, ok := e.X.(*syntax.Literal)
	if !ok || lit.Token != syntax.STRING {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(lit.Value.(string)), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \t")
	}
	return strings.Join(lines, "\n")
}

// resolveError names every undefined word with what was probably meant.
func resolveError(err error, names []string, files map[string]string) error {
	var list resolve.ErrorList
	if !errors.As(err, &list) {
		return scriptError(err, files)
	}
	var first *ScriptError
	for _, e := range list {
		text := e.Msg
		if rest, ok := strings.CutPrefix(text, "undefined: "); ok {
			name, _, _ := strings.Cut(rest, " ")
			text = "undefined: " + name + suggestion(name, names)
		}
		s := &ScriptError{Where: e.Pos.String(), Text: text, Hint: hint(e.Pos, e.Msg, files)}
		if first == nil {
			first = s
			continue
		}
		first.Text += "\n" + s.Error()
	}
	first.Err = err
	return first
}

// finish finds the migration and checks the program as a whole.
func (l *loader) finish(globals starlark.StringDict) (*Program, error) {
	p := l.program
	var found []string
	for _, name := range slices.Sorted(maps.Keys(globals)) {
		if m, ok := globals[name].(*migrationValue); ok {
			found = append(found, name)
			p.name, p.locks, p.phases = m.name, m.locks, m.phases
		}
	}
	main, hasMain := globals["main"].(*starlark.Function)
	switch {
	case len(found) > 1:
		return nil, &ScriptError{Where: p.file, Text: fmt.Sprintf("there are %d migrations (%s); a script is one", len(found), strings.Join(found, ", "))}
	case len(found) == 0 && !hasMain:
		return nil, &ScriptError{Where: p.file, Text: "nothing to run", Hint: `assign a migration, as in move = migration(name = "...", phases = [phase("copy", do = copy)]), or define main(m)`}
	case len(found) == 0:
		p.name = strings.TrimSuffix(path.Base(p.file), ".star")
		p.phases = []*phase{{name: "main", do: main, onFail: onFailUndo, where: main.Position().String()}}
	}
	for _, template := range append([]string{p.name}, p.locks...) {
		if _, err := fillIn(template, p.params, nil); err != nil {
			return nil, &ScriptError{Where: p.file, Text: err.Error()}
		}
	}
	return p, nil
}

// LoadExec makes a program of one phase from a snippet, as in
// skip(group = "orders", at = "orders/7@184223", reason = "INC-1"); the values
// of its expression statements are printed, but for effects that sum up their
// result themselves.
func LoadExec(snippet string, reg *Registry) (*Program, error) {
	const name = "exec"
	l := newLoader(Files(nil), reg)
	p := l.program
	p.file, p.name, p.exec = name, name, true
	p.files[name] = snippet
	globals := maps.Clone(l.globals)
	globals["m"] = starlark.None
	globals["_show"] = starlark.NewBuiltin("_show", show)
	opts := &syntax.FileOptions{TopLevelControl: true, GlobalReassign: true}
	prog, _, err := compile(name, snippet, opts, globals, func(f *syntax.File) {
		for _, s := range f.Stmts {
			if e, ok := s.(*syntax.ExprStmt); ok && !sumsUp(reg, e.X) {
				start, end := e.X.Span()
				e.X = &syntax.CallExpr{Fn: &syntax.Ident{NamePos: start, Name: "_show"}, Lparen: start, Args: []syntax.Expr{e.X}, Rparen: end}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	do := starlark.NewBuiltin(name, func(thread *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
		words := maps.Clone(globals)
		words["m"] = args[0]
		_, err := prog.Init(thread, words)
		return starlark.None, err
	})
	p.phases = []*phase{{name: name, do: do, onFail: onFailUndo, where: name}}
	return p, nil
}

// sumsUp reports whether an expression is the call of a builtin that tells its
// result in a line of its own.
func sumsUp(reg *Registry, x syntax.Expr) bool {
	call, ok := x.(*syntax.CallExpr)
	if !ok {
		return false
	}
	name, ok := call.Fn.(*syntax.Ident)
	if !ok {
		return false
	}
	b, ok := reg.Builtin(name.Name)
	return ok && b.Summary != nil
}

func show(thread *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
	if args[0] != starlark.None {
		text := args[0].String()
		if s, ok := starlark.AsString(args[0]); ok {
			text = s
		}
		thread.Print(thread, text)
	}
	return starlark.None, nil
}
