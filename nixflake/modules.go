package nixflake

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed modules
var embedded embed.FS

// ModulesDir is where Render puts our modules.
const ModulesDir = "blixard-modules"

// Modules are our NixOS and flake-parts modules: a flake of their own.
var Modules = readModules()

func readModules() (files []File) {
	err := fs.WalkDir(embedded, "modules", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".nix") {
			return err
		}
		b, err := embedded.ReadFile(path)
		files = append(files, File{Path: strings.TrimPrefix(path, "modules/"), Text: string(b)})
		return err
	})
	if err != nil {
		panic(err) // what the compiler embedded cannot be read
	}
	return files
}

var modulesBeside = func() (files []File) {
	for _, f := range Modules {
		files = append(files, File{Path: ModulesDir + "/" + f.Path, Text: f.Text})
	}
	return files
}()
