package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/internal/acl"
	"github.com/starferry/starferry/scripting"
)

func (c *cli) kafkaCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "kafka", GroupID: "look", Short: "what starferry needs of Kafka", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(c.aclsCommand())
	return cmd
}

// aclOptions are the flags of `kafka acls`.
type aclOptions struct {
	roles, principals []string
	on, options       string
	names             acl.Names
	json              bool
}

func (c *cli) aclsCommand() *cobra.Command {
	var o aclOptions
	cmd := &cobra.Command{
		Use: "acls", Short: "print the ACLs that each part needs, as kafka-acls.sh lines",
		Long: `Acls prints what agent, shard, consumer (services with the consumer library) and
producer (services with the producer library) have to be allowed on clusters
with an authorizer: all of it, and nothing else. It connects to nothing.

A name that ends in * means all that begin so. Each part may have a principal of
its own; if agent and shards share one, give it to both. docs/kafka-acls.md says
why each line is needed.`,
		Example: `  starferry kafka acls --topic orders --group billing
  starferry kafka acls --role consumer --principal consumer=User:billing --group billing --topic orders --retry billing.retry
  starferry kafka acls --role shard --on target --topic 'pay-*' --link old-new --options '--bootstrap-server kafka-new:9093 --command-config admin.properties'`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return c.acls(o) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.roles, "role", nil, "only these `PARTS`: agent, shard, consumer, producer")
	f.StringVar(&o.on, "on", "", "only what is needed on a `SIDE`: source (where links read) or target (where they write)")
	f.StringSliceVar(&o.names.Topics, "topic", nil, "`TOPICS` that are copied, read and written")
	f.StringSliceVar(&o.names.Groups, "group", nil, "consumer `GROUPS`")
	f.StringSliceVar(&o.names.Links, "link", nil, "`LINKS`; from old to new it is old-new if it was given no name")
	f.StringSliceVar(&o.names.Retry, "retry", nil, "retry `TOPICS` of the groups")
	f.StringSliceVar(&o.names.Dead, "dead-letter", nil, "dead-letter `TOPICS` of the groups; GROUP.skipped if left out")
	f.StringSliceVar(&o.principals, "principal", nil, "`PART=PRINCIPAL`, such as shard=User:starferry; User:starferry-agent and so on if left out")
	f.StringVar(&o.options, "options", "--bootstrap-server BROKER --command-config admin.properties", "what each line tells kafka-acls.sh first")
	f.BoolVar(&o.json, "json", false, "as JSON")
	return cmd
}

func (c *cli) acls(o aclOptions) error {
	lines, err := o.lines()
	if err != nil {
		return err
	}
	if o.json {
		return asJSON(c.Out, lines)
	}
	who, err := o.who()
	if err != nil {
		return err
	}
	title := ""
	for _, l := range lines {
		if t := l.Title(); t != title {
			if title != "" {
				fmt.Fprintln(c.Out)
			}
			title = t
			fmt.Fprintf(c.Out, "# %s\n", title)
		}
		if _, err := fmt.Fprintf(c.Out, "# %s: %s\n%s\n", l.For, l.Why, l.Command(o.options, who[l.Part])); err != nil {
			return err
		}
	}
	return nil
}

// lines are what is asked for. Names that were not given stand for themselves.
func (o aclOptions) lines() ([]acl.Line, error) {
	for _, r := range o.roles {
		if !slices.Contains(acl.Parts(), acl.Part(r)) {
			return nil, &scripting.UsageError{Text: fmt.Sprintf("--role %s: want agent, shard, consumer or producer", r)}
		}
	}
	if on := acl.Side(o.on); on != acl.Every && on != acl.Source && on != acl.Target {
		return nil, &scripting.UsageError{Text: fmt.Sprintf("--on %s: want source or target", o.on)}
	}
	n := o.names
	for _, list := range []*[]string{&n.Topics, &n.Groups, &n.Retry, &n.Dead} {
		for _, name := range *list {
			if name == "" {
				return nil, &scripting.UsageError{Text: "a name is empty: leave the flag out, or name what it is for"}
			}
		}
	}
	for list, holder := range map[*[]string]string{&n.Topics: "TOPIC", &n.Groups: "GROUP", &n.Links: string(starferry.LinkBetween("SOURCE", "TARGET"))} {
		if len(*list) == 0 {
			*list = []string{holder}
		}
	}
	entries := slices.DeleteFunc(acl.List(), func(e acl.Entry) bool {
		return len(o.roles) > 0 && !slices.Contains(o.roles, string(e.Part)) || o.on != "" && e.On != acl.Every && e.On != acl.Side(o.on)
	})
	return acl.Lines(entries, n), nil
}

// who are the principals of the parts.
func (o aclOptions) who() (map[acl.Part]string, error) {
	out := map[acl.Part]string{}
	for _, p := range acl.Parts() {
		out[p] = "User:starferry-" + string(p)
	}
	for _, text := range o.principals {
		part, who, ok := strings.Cut(text, "=")
		if _, known := out[acl.Part(part)]; !ok || !known || who == "" {
			return nil, &scripting.UsageError{Text: fmt.Sprintf("--principal %s: want PART=PRINCIPAL, such as shard=User:starferry; parts are agent, shard, consumer and producer", text)}
		}
		out[acl.Part(part)] = who
	}
	return out, nil
}
