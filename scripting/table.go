package scripting

import (
	"strings"
	"unicode/utf8"
)

// Width is how many columns tables for people take at most.
const Width = 100

// Table lays rows out under headings in at most width columns: the widest
// columns are wrapped at spaces, or where a word is longer than its column. The
// last line has no newline. Without headings the rows stand alone.
func Table(width int, headings []string, rows [][]string) string {
	upper := make([]string, len(headings))
	for i, h := range headings {
		upper[i] = strings.ToUpper(h)
	}
	all := append([][]string{upper}, rows...)
	if len(headings) == 0 {
		all = rows
	}
	widths := fit(width, all)
	var b strings.Builder
	for i, row := range all {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(layRow(row, widths))
	}
	return b.String()
}

const gap = 2 // columns between columns

// fit gives each column its widest cell, and takes from the widest columns what
// is too much.
func fit(width int, rows [][]string) []int {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range widths {
			if i < len(row) {
				widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
			}
		}
	}
	total := gap * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	for ; total > width; total-- {
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= 8 {
			break
		}
		widths[widest]--
	}
	return widths
}

func layRow(row []string, widths []int) string {
	cells := make([][]string, len(widths))
	height := 1
	for i := range widths {
		if i < len(row) {
			cells[i] = wrap(row[i], widths[i])
		}
		height = max(height, len(cells[i]))
	}
	lines := make([]string, height)
	for n := range lines {
		var b strings.Builder
		for i, w := range widths {
			cell := ""
			if n < len(cells[i]) {
				cell = cells[i][n]
			}
			b.WriteString(cell)
			b.WriteString(strings.Repeat(" ", w-utf8.RuneCountInString(cell)+gap))
		}
		lines[n] = strings.TrimRight(b.String(), " ")
	}
	return strings.Join(lines, "\n")
}

// wrap breaks a text into lines of at most width runes.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		for line == "" && utf8.RuneCountInString(word) > width || line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			if line != "" {
				lines, line = append(lines, line), ""
				continue
			}
			r := []rune(word)
			lines, word = append(lines, string(r[:width])), string(r[width:])
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" || len(lines) == 0 {
		lines = append(lines, line)
	}
	return lines
}
