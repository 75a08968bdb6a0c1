// Package plantest finds the golden cases of the planner: below its testdata, a folder for each schema (schema.sql,
// and catalog.json, which is what the catalog adapter reads of it), and in it a folder for each case (entry.yaml, and
// want.txt or stderr.txt).
package plantest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// Case is one entry against one schema.
type Case struct {
	Name     string // schema/case
	Dir      string
	Declared rule.Declared
	Classes  []rule.Class // of rules, beside EXACT, that the plan may have
	Refused  bool         // the case has a stderr.txt
}

// Schemas lists the folders that hold a schema.sql.
func Schemas(root string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(root, "*", "schema.sql"))
	if err != nil {
		return nil, err
	}
	for i := range files {
		files[i] = filepath.Dir(files[i])
	}
	return files, nil
}

// Cases lists the cases of a schema's folder.
func Cases(folder string) ([]Case, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*", "entry.yaml"))
	if err != nil {
		return nil, err
	}
	cases := make([]Case, 0, len(files))
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // a file of the source tree
		if err != nil {
			return nil, err
		}
		var entry struct {
			Key       string `yaml:"key"`
			Query     string `yaml:"query"`
			Result    string `yaml:"result"`
			DependsOn []struct {
				Table string `yaml:"table"`
				Key   string `yaml:"key"`
			} `yaml:"depends_on"`
			UnsafeIgnore  []string            `yaml:"unsafe_ignore"`
			RowVersion    string              `yaml:"row_version"`
			Rules         map[string]string   `yaml:"rules"`
			AllowBroad    []string            `yaml:"allow_broad"`
			DependsOnTime bool                `yaml:"depends_on_time"`
			Functions     map[string][]string `yaml:"functions"`
			Tags          string              `yaml:"tags"`
			Covers        string              `yaml:"covers"`
			Classes       []rule.Class        `yaml:"classes"`
		}
		if err := yaml.UnmarshalWithOptions(text, &entry, yaml.Strict()); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		c := Case{Dir: filepath.Dir(file), Classes: entry.Classes}
		c.Name = filepath.Base(folder) + "/" + filepath.Base(c.Dir)
		c.Declared = rule.Declared{
			Name: filepath.Base(c.Dir), Key: entry.Key, Query: entry.Query, Result: rule.Result(entry.Result), UnsafeIgnore: entry.UnsafeIgnore,
			RowVersion: entry.RowVersion, Rules: entry.Rules, AllowBroad: entry.AllowBroad, DependsOnTime: entry.DependsOnTime, Functions: entry.Functions,
			Tags: entry.Tags, Covers: entry.Covers,
		}
		if c.Classes == nil {
			c.Classes = plan.Served()
		}
		if entry.Result == "" {
			c.Declared.Result = rule.One
		}
		if entry.DependsOn != nil {
			c.Declared.DependsOn = []rule.Dependency{}
		}
		for _, d := range entry.DependsOn {
			c.Declared.DependsOn = append(c.Declared.DependsOn, rule.Dependency{Table: d.Table, Key: d.Key})
		}
		_, err = os.Stat(filepath.Join(c.Dir, "stderr.txt"))
		c.Refused = err == nil
		cases = append(cases, c)
	}
	return cases, nil
}

// CompileAllowed compiles an entry, and lets tables be BROAD that have to be: it writes into the declaration what the
// refusals say.
func CompileAllowed(catalog *schema.Catalog, d *rule.Declared, classes ...rule.Class) (*plan.Compiled, error) {
	for {
		compiled, err := plan.Compile(catalog, *d, classes...)
		refused, ok := errors.AsType[*plan.Error](err)
		if !ok {
			return compiled, err
		}
		_, list, found := strings.Cut(refused.Do, "dd allow_broad: [")
		name, _, _ := strings.Cut(list, "]")
		if !found || slices.Contains(d.AllowBroad, name) {
			return nil, err
		}
		d.AllowBroad = append(d.AllowBroad, name)
	}
}

// stored is a catalog as catalog.json holds it.
type stored struct {
	SearchPath []string           `json:"search_path"`
	Tables     []*schema.Table    `json:"tables"`
	Functions  []*schema.Function `json:"functions"`
}

// functionSchema has the functions of the golden cases, apart from those of extensions.
const functionSchema = "fn"

// firstUserOID is FirstNormalObjectId: lower ones are the same on every server.
const firstUserOID = 16384

// Format is the text of catalog.json: sorted, and free of what differs from one database to the next.
func Format(catalog *schema.Catalog) ([]byte, error) {
	s := stored{SearchPath: catalog.SearchPath}
	for _, t := range catalog.Tables {
		made := *t
		made.Columns = slices.Clone(t.Columns)
		s.Tables = append(s.Tables, &made)
	}
	for _, f := range catalog.Functions {
		if f.Schema != functionSchema {
			continue // of an extension: which there are is the server's matter
		}
		made := *f
		made.Definition = "of " + f.Name.Name // the digest has OIDs in it
		s.Functions = append(s.Functions, &made)
	}
	slices.SortFunc(s.Functions, func(x, y *schema.Function) int { return strings.Compare(x.String(), y.String()) })
	slices.SortFunc(s.Tables, func(x, y *schema.Table) int { return strings.Compare(x.String(), y.String()) })
	types := map[uint32]uint32{}
	for i, t := range s.Tables {
		t.OID = uint32(firstUserOID + i)
		for j := range t.Columns {
			oid := &t.Columns[j].TypeOID
			if *oid < firstUserOID {
				continue
			}
			if types[*oid] == 0 {
				types[*oid] = uint32(2*firstUserOID + len(types)) //nolint:gosec // some dozens
			}
			*oid = types[*oid]
		}
	}
	text, err := json.MarshalIndent(s, "", "  ") //nolint:musttag // the names of the fields do, in a file of tests
	return append(text, '\n'), err
}

// ReadCatalog reads the catalog.json of a schema's folder.
func ReadCatalog(folder string) (*schema.Catalog, error) {
	text, err := os.ReadFile(filepath.Join(folder, "catalog.json")) //nolint:gosec // a file of the source tree
	if err != nil {
		return nil, err
	}
	var s stored
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil { //nolint:musttag // as above
		return nil, fmt.Errorf("read the catalog of %s: %w", folder, err)
	}
	catalog := &schema.Catalog{SearchPath: s.SearchPath, Tables: map[schema.Name]*schema.Table{}, Functions: map[schema.Name]*schema.Function{}}
	for _, f := range s.Functions {
		catalog.Functions[f.Name] = f
	}
	for _, t := range s.Tables {
		catalog.Tables[t.Name] = t
	}
	return catalog, nil
}
