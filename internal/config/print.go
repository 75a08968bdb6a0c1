package config

import (
	"fmt"
	"time"

	"github.com/goccy/go-yaml"
)

// Masked is the effective configuration as YAML, with defaults filled in and secrets replaced by ***.
func (c *Config) Masked() ([]byte, error) {
	text, err := yaml.MarshalWithOptions(c,
		yaml.CustomMarshaler(func(d time.Duration) ([]byte, error) { return []byte(formatDuration(d)), nil }),
		yaml.UseLiteralStyleIfMultiline(true),
		yaml.IndentSequence(true),
	)
	if err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return text, nil
}

// MaskedJSON is Masked as JSON.
func (c *Config) MaskedJSON() ([]byte, error) {
	text, err := c.Masked()
	if err != nil {
		return nil, err
	}
	text, err = yaml.YAMLToJSON(text)
	if err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return text, nil
}
