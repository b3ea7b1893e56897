package sim

import (
	"embed"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"strings"
)

//go:embed page
var pageFiles embed.FS

// Page writes a film as one HTML page that needs nothing else: a diagram of
// machines, messages, faults, leases and VMs in space and time, what happened in
// words, and porcupine's picture of what clients saw.
func (f *Film) Page(out io.Writer) error {
	film, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("write the film as JSON: %w", err)
	}
	picture, err := json.Marshal(f.Picture) // with every < as \u003c: it ends no script
	if err != nil {
		return fmt.Errorf("write the picture as JSON: %w", err)
	}
	title := fmt.Sprintf("seed %d", f.Result.Seed)
	if f.Result.Failure != nil {
		title += ": " + f.Result.Failure.Promise
	}
	_, err = strings.NewReplacer(
		"TITLE", html.EscapeString(title), "STYLE\n", part("page.css"), "SCRIPT\n", part("page.js"),
		"FILM", string(film), "PICTURE", string(picture),
	).WriteString(out, part("page.html"))
	return err
}

func part(name string) string {
	b, err := pageFiles.ReadFile("page/" + name)
	if err != nil {
		panic("sim: " + err.Error())
	}
	return string(b)
}
