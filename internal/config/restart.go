package config

import "reflect"

// Restarts lists the keys of the file in which c differs from before, and which a daemon obeys only from its start on: all but
// defaults and entries.
func (c *Config) Restarts(before *Config) (keys []string) {
	for _, section := range []struct {
		key       string
		now, then any
	}{
		{"namespace", c.Namespace, before.Namespace},
		{"database", c.Database, before.Database},
		{"source", c.Source, before.Source},
		{"regions", c.Regions, before.Regions},
		{"memory", c.Memory, before.Memory},
		{"bus", c.Bus, before.Bus},
		{"listen", c.Listen, before.Listen},
		{"auth", c.Auth, before.Auth},
		{"tls", c.TLS, before.TLS},
	} {
		if !reflect.DeepEqual(section.now, section.then) {
			keys = append(keys, section.key)
		}
	}
	return keys
}
