package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultFile is the file that every command and library reads unless it is told otherwise.
const DefaultFile = "freshet.yaml"

// Load reads a file. lookup is the environment (os.LookupEnv). All that is wrong is in the error, one Error for each
// (see Errors). The Config is complete: defaults are filled in and the files that hold secrets are read.
func Load(path string, lookup func(string) (string, bool)) (*Config, error) {
	return load(path, lookup, nil)
}

// LoadForLibrary reads a file for an application, which has its own way to the database and serves nothing: variables
// of the sections database, source, listen and auth need not be set, and the files that they name need not exist.
func LoadForLibrary(path string, lookup func(string) (string, bool)) (*Config, error) {
	return load(path, lookup, func(at string) bool {
		section, _, _ := strings.Cut(at, ".")
		switch section {
		case "database", "source", "listen", "auth":
			return true
		}
		return false
	})
}

// LoadForTests reads a file for a test, which has no servers: nothing matters but defaults and entries.
func LoadForTests(path string, lookup func(string) (string, bool)) (*Config, error) {
	return load(path, lookup, func(at string) bool {
		section, _, _ := strings.Cut(at, ".")
		return section != "defaults" && section != "entries"
	})
}

func load(path string, lookup func(string) (string, bool), lenient func(string) bool) (*Config, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		hint := "name the file with --config"
		if !errors.Is(err, os.ErrNotExist) {
			hint = ""
		}
		return nil, &Error{Message: fmt.Sprintf("read configuration: %v", err), Hint: hint}
	}
	return read(path, text, lookup, lenient)
}

// Parse reads a file's text; path is what its errors call it and where relative paths in it start.
func Parse(path string, text []byte, lookup func(string) (string, bool)) (*Config, error) {
	return read(path, text, lookup, nil)
}

func read(path string, text []byte, lookup func(string) (string, bool), lenient func(string) bool) (*Config, error) {
	c, err := parse(path, text, lookup, lenient)
	if c == nil {
		return nil, err
	}
	if err == nil {
		err = c.readSecrets(filepath.Dir(path), lenient)
	}
	// What did not decode is missing now and must not be reported again.
	full := c.withDefaults()
	if err := errors.Join(err, full.judge(lenient, Errors(err))); err != nil {
		return nil, inOrder(err)
	}
	return full, nil
}

// inOrder sorts errors by their place in the file.
func inOrder(err error) error {
	all := Errors(err)
	slices.SortStableFunc(all, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	sorted := make([]error, len(all))
	for i, e := range all {
		sorted[i] = e
	}
	return errors.Join(sorted...)
}

// readSecrets puts in place what the *_file keys name.
func (c *Config) readSecrets(dir string, lenient func(string) bool) error {
	r := &secretReader{c: c, dir: dir, lenient: lenient}
	r.url("database", &c.Database.URL, c.Database.URLFile, c.Database.PasswordFile)
	r.replicas(&c.Database)
	if pg := c.Source.Postgres; pg != nil {
		if pg.PasswordFile != "" && pg.URL == "" && pg.URLFile == "" {
			r.fail("source.postgres.password_file", "password_file without a connection string to put it in", "use database.password_file, or give source.postgres.url")
		} else {
			r.url("source.postgres", &pg.URL, pg.URLFile, pg.PasswordFile)
		}
	}
	for i := range c.Regions {
		redis := &c.Regions[i].Redis
		path := fmt.Sprintf("regions.%d.redis", i)
		r.url(path, &redis.URL, redis.URLFile, redis.PasswordFile)
		r.secret(path+".sentinel", "password", &redis.Sentinel.Password, redis.Sentinel.PasswordFile)
	}
	r.secret("auth", "token", &c.Auth.Token, c.Auth.TokenFile)
	for _, file := range []*string{&c.TLS.CertFile, &c.TLS.KeyFile} {
		if *file != "" && !filepath.IsAbs(*file) {
			*file = filepath.Join(dir, *file)
		}
	}
	return errors.Join(r.errs...)
}

type secretReader struct {
	c       *Config
	dir     string
	lenient func(string) bool
	errs    []error
}

func (r *secretReader) fail(path, message, hint string) {
	r.errs = append(r.errs, r.c.ErrorAt(path, path+": "+message, hint))
}

// secret takes one secret, of a section that may have it itself, from a file.
func (r *secretReader) secret(section, name string, s *Secret, file string) {
	if file == "" {
		return
	}
	path := section + "." + name + "_file"
	if *s != "" {
		_, last, _ := strings.Cut(section, "redis.")
		r.fail(path, fmt.Sprintf("%s has both %s and %s_file", cmp.Or(last, section), name, name), "keep one of them")
		return
	}
	if text, ok := r.read(path, file); ok {
		*s = Secret(text)
	}
}

// url completes one connection string.
func (r *secretReader) url(path string, u *URL, urlFile, passwordFile string) {
	if urlFile != "" {
		if *u != "" {
			r.fail(path+".url_file", "both url and url_file are given", "keep one of them")
			return
		}
		text, ok := r.read(path+".url_file", urlFile)
		if !ok {
			return
		}
		*u = URL(text)
	}
	if passwordFile == "" || *u == "" {
		return
	}
	password, ok := r.read(path+".password_file", passwordFile)
	if !ok {
		return
	}
	full, err := u.withPassword(password)
	if err != nil {
		r.fail(path+".password_file", err.Error(), "")
		return
	}
	*u = full
}

// replicas gives those without a password the database's.
func (r *secretReader) replicas(d *Database) {
	if d.PasswordFile == "" || len(d.Replicas) == 0 {
		return
	}
	password, ok := r.read("database.password_file", d.PasswordFile)
	if !ok {
		return
	}
	for i, replica := range d.Replicas {
		if full, err := replica.withPassword(password); err == nil {
			d.Replicas[i] = full
		} // or else it has one, or does not parse, which is judged
	}
}

// read reads a file that holds one secret; the line end after it does not belong to it.
func (r *secretReader) read(path, file string) (string, bool) {
	if r.lenient != nil && r.lenient(path) {
		return "", false
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(r.dir, file)
	}
	text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		r.fail(path, err.Error(), "")
		return "", false
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		r.fail(path, "the file is empty", "")
		return "", false
	}
	return secret, true
}
