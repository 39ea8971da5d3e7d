package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent/world"
)

// mapWithin bounds how long a whole map may take to travel.
const mapWithin = 10 * time.Minute

func (c *cli) mapCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "map", GroupID: "look", Short: "offset maps as text: export them, bring them back", Args: cobra.NoArgs, RunE: help,
		Long: `The map of a link says for every source offset where its copy is, or why there is
none. Export writes it as text, one statement a line, so that it can be kept,
compared with diff, or read by other tools; docs/map-text.md describes the form.
Import brings such a text back.`,
	}
	cmd.AddCommand(c.mapExportCommand(), c.mapImportCommand())
	return cmd
}

func (c *cli) mapExportCommand() *cobra.Command {
	var topics []string
	var file string
	cmd := &cobra.Command{
		Use: "export LINK", Short: "write a link's map as text; changes nothing", Args: cobra.ExactArgs(1),
		Example: "  starferry map export old-new > old-new.map\n  starferry map export old-new --topic orders -o orders.map",
		RunE: func(cmd *cobra.Command, args []string) error {
			var names []starferry.Topic
			for _, t := range topics {
				names = append(names, starferry.Topic(t))
			}
			write := func(w io.Writer) error {
				return c.withLinks(cmd.Context(), func(ctx context.Context, l *world.Links) error {
					return l.ExportMap(ctx, starferry.LinkName(args[0]), names, w)
				})
			}
			if file == "" {
				return write(c.Out)
			}
			return writeWhole(file, write)
		},
	}
	cmd.Flags().StringArrayVar(&topics, "topic", nil, "only this `TOPIC`; may be repeated")
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to `FILE`, which appears when it is whole")
	return cmd
}

// writeWhole makes a file that is either whole or not there.
func writeWhole(file string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already if all went well
	err = write(f)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func (c *cli) mapImportCommand() *cobra.Command {
	var json bool
	cmd := &cobra.Command{
		Use: "import LINK FILE", Short: "fill what a link's map does not know from a text", Args: cobra.ExactArgs(2),
		Long: `Import fills what the lanes of a link do not know: offsets below the start of
their maps, and stretches that are unknown. All of the file is checked first. A
lane whose map says something else, or whose topics were made again since, is
refused, and what is known already stays as it is.`,
		Example: "  starferry map import old-new old-new.map",
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[1])
			if err != nil {
				return fmt.Errorf("import map: %w", err)
			}
			defer func() { _ = f.Close() }() // it was only read
			return c.withLinks(cmd.Context(), func(ctx context.Context, l *world.Links) error {
				done, err := l.ImportMap(ctx, starferry.LinkName(args[0]), f)
				if err != nil && len(done) == 0 {
					return fmt.Errorf("%s: %w", args[1], err)
				}
				var rows [][]string
				for _, i := range done {
					rows = append(rows, []string{i.Lane.String(), fmt.Sprint(i.Filled)})
				}
				show := func() error { return table(c.Out, []string{"lane", "offsets filled"}, rows) }
				if json {
					show = func() error { return asJSON(c.Out, done) }
				}
				if shown := show(); err == nil {
					return shown
				}
				return fmt.Errorf("%s: %w; the lanes above are filled, and filling them again changes nothing", args[1], err)
			})
		},
	}
	cmd.Flags().BoolVar(&json, "json", false, "print what was filled as JSON")
	return cmd
}

// withLinks does something over the shards.
func (c *cli) withLinks(ctx context.Context, do func(context.Context, *world.Links) error) error {
	cfg, nc, err := c.connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	links := world.NewLinks(cfg, nc, c.log(slog.LevelError))
	defer func() { _ = links.Close() }() // nothing is left to be written
	ctx, cancel := context.WithTimeout(ctx, mapWithin)
	defer cancel()
	return do(ctx, links)
}
