package nixflake

import (
	"errors"
	"testing"
)

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":             `""`,
		"web":          `"web"`,
		`a"b\c`:        `"a\"b\\c"`,
		"${x}":         `"\${x}"`,
		"$${x}":        `"\$\${x}"`,
		"a\nb\r\tc":    `"a\nb\r\tc"`,
		"é\u2028\x7f'": "\"é\u2028\x7f'\"",
	} {
		if got := quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestIndented(t *testing.T) {
	for in, want := range map[string]string{
		"":             "''\n  ''",
		"echo hi\n":    "''\n    echo hi\n  ''",
		"a\n\n  b":     "''\n    a\n\n    ''\\  b''",
		"echo 'x'\ny":  "''\n    echo 'x'\n    y''",
		"it's ${HOME}": "''\n    it's ''${HOME}''",
		"''":           "''\n    ''\\'''\\'''",
		"'$x'":         "''\n    ''\\'''$x''\\'''",
	} {
		if got := indented(in, "  "); got != want {
			t.Errorf("%q:\n%s\nwant\n%s", in, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, s := range []string{"a\x00b", "\xff", "\xed\xa0\x80"} {
		if err := check("it", s); !errors.Is(err, ErrText) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if err := check("it", "$''\"\\\r\n\ue000\ufffd"); err != nil {
		t.Error(err)
	}
}

// Quote and Indented are for the property test, which asks a real Nix.
var (
	Quote    = quote
	Indented = indented
)
