package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/freshet/freshet"

// public are the packages that others import, by their directories.
func public() []string {
	return []string{".", "mvcc", "embedded", "freshettest", "freshetprom", "freshetotel", "freshetmsgpack", "freshetproto"}
}

// TestEveryNameIsInAnExample: whatever a public package exports, and the methods of its types, stands in one of the package's Example functions, or in
// what such a function uses of its file. Names, types and methods are told apart as the compiler does.
func TestEveryNameIsInAnExample(t *testing.T) {
	t.Parallel()
	paths := append(slices.Collect(maps.Values(imported())), "database/sql", "github.com/jackc/pgx/v5/stdlib", "google.golang.org/protobuf/proto")
	for _, dir := range public() {
		paths = append(paths, path.Join(module, dir))
	}
	universe := exportsOf(t, paths...)
	for _, dir := range public() {
		imports := path.Join(module, dir)
		pkg, err := universe.Import(imports)
		if err != nil {
			t.Fatal(err)
		}
		shown, examples := shownIn(t, universe, filepath.Join(root, dir), imports)
		names := exportedBy(pkg)
		if len(names) == 0 || examples == 0 {
			t.Errorf("%s: %d names, %d examples", imports, len(names), examples)
		}
		for _, name := range names {
			if !shown[name] {
				t.Errorf("%s.%s is in no Example of its package", pkg.Name(), name)
			}
		}
	}
}

// exportedBy are a package's exported names, with the methods of its types that are no interfaces, as Type.Method.
func exportedBy(pkg *types.Package) (names []string) {
	for _, name := range pkg.Scope().Names() {
		object := pkg.Scope().Lookup(name)
		if !object.Exported() {
			continue
		}
		names = append(names, name)
		declared, ok := object.(*types.TypeName)
		if !ok || declared.IsAlias() {
			continue
		}
		named, ok := declared.Type().(*types.Named)
		if !ok || types.IsInterface(named) {
			continue
		}
		for method := range named.Methods() {
			if method.Exported() {
				names = append(names, name+"."+method.Name())
			}
		}
	}
	return names
}

// shownIn are the names of a package that its Examples have, as exportedBy has them, and how many Examples there are.
func shownIn(t *testing.T, universe types.Importer, dir, imports string) (shown map[string]bool, examples int) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range paths {
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file.Name.Name, "_test") && slices.ContainsFunc(file.Decls, isExample) {
			files = append(files, file)
		}
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}}
	// What these files have from others of the package is not known here. That is no error: it is no example.
	config := types.Config{Importer: universe, Error: func(error) {}}
	_, _ = config.Check(imports+"_test", fset, files, info)

	// Of each object that the files declare, where that is; with a type, its methods.
	declared := map[types.Object][]ast.Node{}
	var todo []ast.Node
	for _, file := range files {
		for _, decl := range file.Decls {
			if isExample(decl) {
				examples++
				todo = append(todo, decl)
			}
			for _, of := range declares(info, decl) {
				declared[of.object] = append(declared[of.object], of.node)
			}
		}
	}
	shown = map[string]bool{}
	for len(todo) > 0 {
		node := todo[0]
		todo = todo[1:]
		ast.Inspect(node, func(n ast.Node) bool {
			name, ok := n.(*ast.Ident)
			if !ok || info.Uses[name] == nil {
				return true
			}
			object := info.Uses[name]
			todo = append(todo, declared[object]...)
			delete(declared, object)
			if object.Pkg() != nil && object.Pkg().Path() == imports {
				shown[nameOf(object)] = true
			}
			return true
		})
	}
	return shown, examples
}

func isExample(decl ast.Decl) bool {
	f, ok := decl.(*ast.FuncDecl)
	return ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Example")
}

// declaration is a node that belongs to an object: what declares it, or a method of it.
type declaration struct {
	object types.Object
	node   ast.Node
}

func declares(info *types.Info, decl ast.Decl) (all []declaration) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if strings.HasPrefix(d.Name.Name, "Test") || strings.HasPrefix(d.Name.Name, "Benchmark") {
			return nil
		}
		object := info.Defs[d.Name]
		if method, ok := object.(*types.Func); ok && method.Signature().Recv() != nil {
			receiver := method.Signature().Recv().Type()
			if pointer, ok := receiver.(*types.Pointer); ok {
				receiver = pointer.Elem()
			}
			if named, ok := receiver.(*types.Named); ok {
				object = named.Obj()
			}
		}
		all = append(all, declaration{object, d})
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				all = append(all, declaration{info.Defs[s.Name], s})
			case *ast.ValueSpec:
				for _, name := range s.Names {
					all = append(all, declaration{info.Defs[name], s})
				}
			}
		}
	}
	return all
}

// nameOf is an object's name, a method's with its type.
func nameOf(object types.Object) string {
	method, ok := object.(*types.Func)
	if !ok || method.Origin().Signature().Recv() == nil {
		return object.Name()
	}
	receiver := method.Origin().Signature().Recv().Type()
	if pointer, ok := receiver.(*types.Pointer); ok {
		receiver = pointer.Elem()
	}
	if named, ok := receiver.(*types.Named); ok {
		return named.Obj().Name() + "." + method.Name()
	}
	return method.Name()
}
