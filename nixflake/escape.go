package nixflake

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrText is what Render says of text that Nix cannot hold.
var ErrText = errors.New("nixflake: text that Nix cannot hold")

// check refuses what has no spelling in Nix: a NUL byte ends its strings, and
// what is not UTF-8 cannot be shown.
func check(what, s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%w: %s holds a NUL byte", ErrText, what)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w: %s is not UTF-8", ErrText, what)
	}
	return nil
}

// escapes are the characters that mean something between double quotes. A dollar
// is escaped wherever it is: "$${" is not an interpolation to Nix and "$$${" is,
// and nobody should have to know. A bare carriage return Nix would turn into a
// newline.
var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

// quote writes s as a Nix string. It also is an attribute's name where Nix
// wants one.
func quote(s string) string { return `"` + escapes.Replace(s) + `"` }

// indented writes s as an indented Nix string, for text of several lines. What
// Nix strips from one is the least indentation of its lines, so a line that
// begins with a blank of its own has it escaped: that ends what Nix takes for
// indentation.
func indented(s, indent string) string {
	var b strings.Builder
	b.WriteString("''\n")
	for rest, more := s, true; more; {
		var line string
		line, rest, more = strings.Cut(rest, "\n")
		switch {
		case line != "":
			b.WriteString(indent + "  ")
			indentedLine(&b, line, !more)
		case !more:
			b.WriteString(indent)
		}
		if more {
			b.WriteByte('\n')
		}
	}
	b.WriteString("''")
	return b.String()
}

func indentedLine(b *strings.Builder, line string, last bool) {
	for i := range len(line) {
		switch c := line[i]; {
		case c == ' ' && i == 0:
			b.WriteString(`''\ `)
		case c == '$':
			b.WriteString(`''$`)
		case c == '\r':
			b.WriteString(`''\r`)
		case c == '\t':
			b.WriteString(`''\t`)
		// A quote joins with one beside it, of the text, of an escape or of the end.
		case c == '\'' && (last && i+1 == len(line) || i+1 < len(line) && strings.IndexByte("'$\r\t", line[i+1]) >= 0 || i > 0 && line[i-1] == '\''):
			b.WriteString(`''\'`)
		default:
			b.WriteByte(c)
		}
	}
}
