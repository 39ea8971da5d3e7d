package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// document is a parsed file with the line of every key, for errors.
type document struct {
	file  string
	root  ast.Node // nil: an empty file
	lines map[string]int
}

// Problem is one thing wrong with a file. It never shows a value of the file,
// because a value put below the wrong key may be a secret.
type Problem struct {
	File string
	Line int // 0: of the file as a whole
	Key  string
	Text string
}

// Error implements error.
func (p *Problem) Error() string {
	where := p.File
	if p.Line > 0 {
		where = fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	if p.Key == "" {
		return where + ": " + p.Text
	}
	return where + ": " + p.Key + ": " + p.Text
}

func parseDocument(file string, text []byte) (*document, error) {
	doc := &document{file: file, lines: map[string]int{}}
	f, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxProblem(file, err)
	}
	var bodies []ast.Node
	for _, d := range f.Docs {
		if d.Body != nil && d.Body.Type() != ast.NullType && d.Body.Type() != ast.CommentType {
			bodies = append(bodies, d.Body)
		}
	}
	if len(bodies) > 1 {
		return nil, &Problem{file, line(bodies[1]), "", "a second document: one file holds one configuration; remove the `---` and what follows"}
	}
	if len(bodies) == 1 {
		doc.root = bodies[0]
	}
	return doc, nil
}

// syntaxProblem keeps the library's message and line, and drops its excerpt of
// the source.
func syntaxProblem(file string, err error) error {
	p := &Problem{File: file, Text: "no valid YAML: check indentation (spaces only), colons and quotes"}
	var ye yaml.Error
	if errors.As(err, &ye) {
		if t := ye.GetToken(); t != nil && t.Position != nil {
			p.Line = t.Position.Line
		}
	}
	return p
}

func line(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// at makes a problem at a key that was read.
func (d *document) at(key, format string, args ...any) *Problem {
	n := d.lines[key]
	for k := key; n == 0 && k != ""; n = d.lines[k] {
		k = parent(k)
	}
	return &Problem{d.file, n, key, fmt.Sprintf(format, args...)}
}

func parent(key string) string {
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		return key[:i]
	}
	return ""
}

// check walks the file beside the type it is to fill and reports every unknown
// key and every value of a wrong type.
func (d *document) check(into any) error {
	var problems []error
	d.walk("", d.root, reflect.TypeOf(into).Elem(), &problems)
	return errors.Join(problems...)
}

func (d *document) walk(key string, n ast.Node, t reflect.Type, problems *[]error) {
	if key != "" && d.lines[key] == 0 {
		d.lines[key] = line(n)
	}
	fail := func(format string, args ...any) {
		*problems = append(*problems, &Problem{d.file, line(n), key, fmt.Sprintf(format, args...)})
	}
	switch n.Type() {
	case ast.NullType:
		return // a key without a value is as good as left out
	case ast.AnchorType, ast.AliasType, ast.TagType, ast.MergeKeyType:
		fail("anchors, aliases and tags are not understood here: write the value out")
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		d.walk(key, n, t.Elem(), problems)
	case reflect.Struct, reflect.Map:
		entries, ok := mapping(n)
		if !ok {
			fail("want keys and values, found %s", kind(n))
			return
		}
		d.walkEntries(key, entries, t, problems)
	case reflect.Slice:
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			fail("want a list such as [\"a\", \"b\"], found %s", kind(n))
			return
		}
		for i, v := range seq.Values {
			d.walk(fmt.Sprintf("%s[%d]", key, i), v, t.Elem(), problems)
		}
	default:
		if want := scalar(n, t); want != "" {
			fail("want %s, found %s", want, kind(n))
		}
	}
}

func (d *document) walkEntries(key string, entries []*ast.MappingValueNode, t reflect.Type, problems *[]error) {
	seen := map[string]int{}
	for _, e := range entries {
		name := e.Key.GetToken().Value
		full := name
		if key != "" {
			full = key + "." + name
		}
		if first := seen[name]; first > 0 {
			*problems = append(*problems, &Problem{d.file, line(e.Key), full, fmt.Sprintf("stands twice, first in line %d: keep one", first)})
			continue
		}
		seen[name] = line(e.Key)
		d.lines[full] = line(e.Key)
		if t.Kind() == reflect.Map {
			d.walk(full, e.Value, t.Elem(), problems)
			continue
		}
		field, known := fieldOf(t, name)
		if field == nil {
			*problems = append(*problems, &Problem{d.file, line(e.Key), full, unknown(name, known)})
			continue
		}
		d.walk(full, e.Value, field, problems)
	}
}

func unknown(name string, known []string) string {
	if name == "password" && slices.Contains(known, "password_file") {
		return "unknown key: passwords do not stand in this file; use password_file or password_env"
	}
	return "unknown key" + Suggest(name, known) + "; known here: " + strings.Join(known, ", ")
}

func fieldOf(t reflect.Type, name string) (reflect.Type, []string) {
	var known []string
	for f := range t.Fields() {
		tag := f.Tag.Get("yaml")
		if tag == name {
			return f.Type, nil
		}
		known = append(known, tag)
	}
	return nil, known
}

func mapping(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// scalar says what is wanted when n is not of it, and "" when it is.
func scalar(n ast.Node, t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		switch n.Type() {
		case ast.StringType, ast.LiteralType, ast.IntegerType, ast.FloatType:
			return ""
		}
		return "a text"
	case reflect.Bool:
		if n.Type() != ast.BoolType {
			return "true or false"
		}
	case reflect.Int, reflect.Int64:
		if n.Type() != ast.IntegerType {
			return "a whole number"
		}
	}
	return ""
}

func kind(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "keys and values"
	case ast.SequenceType:
		return "a list"
	case ast.BoolType:
		return "true or false"
	case ast.IntegerType, ast.FloatType:
		return "a number"
	}
	return "a text"
}
