package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/configschema"
)

func (a *app) config() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the configuration, its schema or a sample",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:     "schema",
			Short:   "Print the JSON Schema of freshet.yaml, for editors",
			Example: "  freshet config schema > freshet.schema.json",
			Args:    cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				text, err := configschema.JSON()
				if err != nil {
					return err
				}
				a.out(string(text))
				return nil
			},
		},
		a.jsonFlag(&cobra.Command{
			Use:     "print",
			Short:   "Print the effective configuration, secrets masked",
			Example: "  freshet config print\n  freshet config print --json | jq .entries",
			Args:    cobra.NoArgs,
			RunE:    func(*cobra.Command, []string) error { return a.printConfig() },
		}),
		&cobra.Command{
			Use:     "sample",
			Short:   "Print a commented file to start from",
			Example: "  freshet config sample > freshet.yaml",
			Args:    cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				a.out(configschema.Sample())
				return nil
			},
		},
	)
	return cmd
}

func (a *app) printConfig() error {
	c, err := a.load()
	if err != nil {
		return err
	}
	if a.json {
		text, err := c.MaskedJSON()
		if err != nil {
			return err
		}
		return a.printJSON(json.RawMessage(text))
	}
	text, err := c.Masked()
	if err != nil {
		return err
	}
	a.out(string(text))
	return nil
}
