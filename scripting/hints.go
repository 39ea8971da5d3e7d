package scripting

import (
	"errors"
	"regexp"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

// scriptError gives an error of the parser or the interpreter its place.
func scriptError(err error, files map[string]string) error {
	var already *ScriptError
	if errors.As(err, &already) {
		return already
	}
	var parse syntax.Error
	if errors.As(err, &parse) {
		return &ScriptError{Where: parse.Pos.String(), Text: parse.Msg, Hint: hint(parse.Pos, parse.Msg, files), Err: err}
	}
	var eval *starlark.EvalError
	if errors.As(err, &eval) {
		pos := evalPosition(eval)
		return &ScriptError{Where: pos.String(), Text: eval.Msg, Hint: hint(pos, eval.Msg, files), Err: err}
	}
	return &ScriptError{Text: err.Error(), Err: err}
}

// evalPosition is the innermost place in a script, not in a builtin.
func evalPosition(e *starlark.EvalError) syntax.Position {
	for i := range e.CallStack {
		fr := e.CallStack.At(i)
		if fr.Pos.IsValid() && fr.Pos.Filename() != "<builtin>" {
			return fr.Pos
		}
	}
	return syntax.Position{}
}

type habit struct{ line, text string }

// habits are what people coming from Python write, and what to write instead.
func habits() []habit {
	return []habit{
		{`^\s*(try|except|finally)\b.*:|^\s*raise\b`, "Starlark has no exceptions: a failing check stops the run by itself, and expect(condition, message) or fail(message) stops it from a script"},
		{`^\s*(import|from)\b`, `Starlark has no import: load("lib/checks.star", "name") takes names from a file below the script's root`},
		{`(^|[^\w"'])[fF]["']`, `Starlark has no f-strings: write "%s of %s" % (a, b) or "{} of {}".format(a, b)`},
		{`^\s*def\s+\w+\([^)]*\w\s*:|\)\s*->|^\s*\w+\s*:\s*\w+\s*=`, "Starlark has no type annotations: write def copy(m): and nothing more"},
		{`^\s*class\b`, "Starlark has no classes: use struct(a = 1, b = 2) and functions"},
		{`^\s*while\b`, "Starlark has no while loops here: use for i in range(n), or a builtin that waits, such as assert_lag(within = ...)"},
		{`^\s*with\b|^\s*(async|await|yield|global|nonlocal|del|assert)\b`, "this is Python, not Starlark; for a condition that must hold write expect(condition, message)"},
		{`\bis\s+(not\s+)?None\b`, "Starlark has no 'is': write x == None or x != None"},
	}
}

// hint looks at the line of an error for habits from Python.
func hint(pos syntax.Position, msg string, files map[string]string) string {
	lines := strings.Split(files[pos.Filename()], "\n")
	if pos.Line < 1 || int(pos.Line) > len(lines) {
		return ""
	}
	if strings.Contains(msg, "not within a function") {
		return "the top level only declares; put this into a function of a phase"
	}
	syntaxLike := strings.Contains(msg, "got ") || strings.Contains(msg, "undefined") || strings.Contains(msg, "not support") || strings.Contains(msg, "does not") || strings.Contains(msg, "unexpected") || strings.Contains(msg, "want")
	if !syntaxLike {
		return ""
	}
	for _, h := range habits() {
		if regexp.MustCompile(h.line).MatchString(lines[pos.Line-1]) {
			return h.text
		}
	}
	return ""
}
