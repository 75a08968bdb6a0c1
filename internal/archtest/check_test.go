package archtest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// listed is what go list says about a package.
type listed struct {
	ImportPath string
	Doc        string
	Standard   bool
	GoFiles    []string
	CgoFiles   []string
	Imports    []string
	Deps       []string
	Module     *struct {
		Path string
		Main bool
	}
	Error *struct{ Err string }
}

// list asks the go command for every package of the module and everything that they link, with an overlay file if the
// name is not empty.
func list(overlay string) ([]listed, error) {
	args := []string{"list", "-e", "-deps", "-json=ImportPath,Doc,Standard,GoFiles,CgoFiles,Imports,Deps,Module,Error"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.Command("go", append(args, module+"/...")...)
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var packages []listed
	for decoder := json.NewDecoder(out); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) { //nolint:musttag // the fields are named as the go command names them
			break
		} else if err != nil {
			return nil, errors.Join(err, cmd.Wait())
		}
		packages = append(packages, p)
	}
	return packages, cmd.Wait()
}

// name is a package's name in the layer table.
func name(path string) string {
	if path == module {
		return root
	}
	return strings.TrimPrefix(path, module+"/")
}

// checker judges the packages of the module.
type checker struct {
	layer    map[string]int
	modules  map[string]string // import path to module
	standard map[string]bool
	found    []string
}

// check returns every breach of the architecture, sorted.
func check(packages []listed) []string {
	c := &checker{layer: map[string]int{}, modules: map[string]string{}, standard: map[string]bool{}}
	for layer, names := range layers() {
		for _, name := range names {
			c.layer[name] = layer
		}
	}
	exists := map[string]bool{}
	for _, p := range packages {
		c.standard[p.ImportPath] = p.Standard
		if p.Module != nil {
			c.modules[p.ImportPath] = p.Module.Path
		}
	}
	for _, p := range packages {
		if p.Module != nil && p.Module.Main {
			exists[name(p.ImportPath)] = true
			c.checkPackage(p)
		}
	}
	for name := range c.layer {
		if !exists[name] {
			c.breach("%s is in the layer table and does not exist", name)
		}
	}
	slices.Sort(c.found)
	return c.found
}

func (c *checker) breach(format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

func (c *checker) checkPackage(p listed) {
	name := name(p.ImportPath)
	if p.Error != nil {
		c.breach("%s cannot be listed: %s", name, p.Error.Err)
	}
	if p.Doc == "" && len(p.GoFiles)+len(p.CgoFiles) > 0 {
		c.breach("%s has no package comment", name)
	}
	if testsOnly(name) {
		return
	}
	layer, ok := c.layer[name]
	if !ok {
		c.breach("%s is not in the layer table", name)
		return
	}
	for _, imported := range p.Imports {
		switch {
		case within(imported, module):
			c.checkOwn(name, layer, imported)
		case c.standard[imported] || imported == "C":
			c.checkStandard(name, imported)
		default:
			c.checkThirdParty(name, layer, imported)
		}
	}
	for forbidden, why := range neverLinked()[name] {
		for _, dep := range p.Deps {
			if within(dep, forbidden) {
				c.breach("%s links %s: %s", name, dep, why)
			}
		}
	}
}

func (c *checker) checkOwn(importer string, layer int, path string) {
	imported := name(path)
	if testsOnly(imported) {
		c.breach("%s imports %s, which is for tests", importer, imported)
		return
	}
	below, ok := c.layer[imported]
	switch {
	case !ok: // said at the imported package
	case below > layer:
		c.breach("%s (layer %d) imports %s (layer %d): upwards", importer, layer, imported, below)
	case below == layer && !sideways(importer, imported):
		c.breach("%s imports %s of the same layer %d: sideways", importer, imported, layer)
	}
}

func (c *checker) checkStandard(importer, imported string) {
	if within(imported, "testing") && importer != "freshettest" { // which is for users' tests
		c.breach("%s imports %s, which is for tests", importer, imported)
	}
	if !pure(importer) {
		return
	}
	for _, above := range impure() {
		if within(imported, above) && imported != "sync/atomic" {
			c.breach("%s is pure and imports %s", importer, imported)
		}
	}
}

func (c *checker) checkThirdParty(importer string, layer int, imported string) {
	if layer >= everybodysFrom && everybodys(imported) {
		return
	}
	for _, driver := range drivers(importer) {
		if within(imported, driver) {
			return
		}
	}
	c.breach("%s imports %s of %s, which is not its driver", importer, imported, c.modules[imported])
}
