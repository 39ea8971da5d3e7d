package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/agent"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/jet"
	"github.com/starferry/starferry/replication"
	"github.com/starferry/starferry/scripting"
)

// role is one user of NATS and what it needs there.
type role struct {
	Name    string            `json:"name"`
	Role    string            `json:"role"` // agent, shard, operator, service
	Groups  []starferry.Group `json:"groups,omitempty"`
	Topics  []starferry.Topic `json:"topics,omitempty"`
	Inbox   string            `json:"inbox_prefix"`
	NKey    string            `json:"nkey,omitempty"` // public; empty: user and password
	Account string            `json:"account,omitempty"`
	jet.Access
}

const permissionsHelp = `Permissions prints what each part of starferry needs at NATS, and nothing
beyond: agents, shards, operators, and services with the groups they consume as
and the topics they produce to. The default is a block for the configuration of
nats-server, with users and lists of what they may publish and hear; passwords
come from the server's environment. --nsc prints commands for nsc instead, --json
all of it for other programs.

Permissions keep a service to what is its own as long as it is merely wrong. NATS
does not check where answers are asked to go, so one that an attacker has taken
over can let the server write where the service itself may not. --accounts
prints an account of its own for each service: answers cannot leave it.

Each process has an inbox prefix of its own (nats.inbox_prefix in the
configuration, InboxPrefix in the libraries); services with accounts need none.`

func (c *cli) natsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "nats", GroupID: "serve", Short: "what NATS has to permit", Args: cobra.NoArgs, RunE: help}
	cmd.AddCommand(c.permissionsCommand())
	return cmd
}

func (c *cli) permissionsCommand() *cobra.Command {
	var services, groups, topics, operators, keys []string
	var nsc, json, accounts bool
	cmd := &cobra.Command{
		Use: "permissions", Short: "print what each part needs at NATS, for nats-server or nsc", Long: permissionsHelp,
		Example: "  starferry nats permissions --service billing --group billing --topic payments\n" +
			"  starferry nats permissions --service billing=group:billing,topic:payments --service orders=group:orders --operator alice\n" +
			"  starferry nats permissions --accounts --service billing --group billing\n" +
			"  starferry nats permissions --nsc --service billing --group billing",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			roles, err := permitted(services, groups, topics, operators, keys)
			if err != nil {
				return &scripting.UsageError{Text: "nats permissions: " + err.Error()}
			}
			if accounts {
				own(roles)
			}
			switch {
			case nsc && json, nsc && accounts:
				return &scripting.UsageError{Text: "nats permissions: --nsc stands alone: leave --json and --accounts out"}
			case json:
				return asJSON(c.Out, roles)
			case nsc:
				_, err = fmt.Fprint(c.Out, asNSC(roles))
			case accounts:
				_, err = fmt.Fprint(c.Out, asAccounts(roles))
			default:
				_, err = fmt.Fprint(c.Out, asUsers(roles))
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&services, "service", nil, "a service: its `NAME`, or NAME=group:G,topic:T,… for one of several")
	f.StringArrayVar(&groups, "group", nil, "a `GROUP` that the service consumes as")
	f.StringArrayVar(&topics, "topic", nil, "a `TOPIC` that the service produces to with the producer library")
	f.StringArrayVar(&operators, "operator", nil, "an operator with a `NAME` that agents can rely on; without any: one user for all")
	f.StringArrayVar(&keys, "nkey", nil, "`NAME=KEY`: that user signs in with an nkey; the public key (U…)")
	f.BoolVar(&accounts, "accounts", false, "an account of its own for each service")
	f.BoolVar(&nsc, "nsc", false, "print commands for nsc")
	f.BoolVar(&json, "json", false, "print everything as JSON")
	return cmd
}

var userName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// permitted are the roles of an estate.
func permitted(services, groups, topics, operators, keys []string) ([]*role, error) {
	roles := []*role{{Name: "agent", Role: "agent", Access: agent.Permissions()}, {Name: "shard", Role: "shard", Access: replication.ShardAccess()}}
	if len(operators) == 0 {
		roles = append(roles, &role{Name: "operator", Role: "operator", Access: agent.OperatorPermissions("")})
	}
	for _, name := range operators {
		roles = append(roles, &role{Name: name, Role: "operator", Access: agent.OperatorPermissions(name)})
	}
	if len(services) == 0 && len(groups)+len(topics) > 0 {
		services = []string{"service"}
	}
	for i, s := range services {
		name, list, described := strings.Cut(s, "=")
		r := &role{Name: name, Role: "service"}
		if err := r.describe(list, described); err != nil {
			return nil, err
		}
		if i == len(services)-1 && !described {
			for _, g := range groups {
				r.Groups = append(r.Groups, starferry.Group(g))
			}
			for _, t := range topics {
				r.Topics = append(r.Topics, starferry.Topic(t))
			}
		}
		if len(r.Groups)+len(r.Topics) == 0 {
			return nil, fmt.Errorf("service %s has neither group nor topic: give --group or --topic, or %s=group:NAME", name, name)
		}
		r.Access = desired.ServiceAccess(r.Groups, r.Topics)
		roles = append(roles, r)
	}
	return roles, finish(roles, keys)
}

// describe reads "group:G,topic:T".
func (r *role) describe(list string, given bool) error {
	if !given {
		return nil
	}
	for _, word := range strings.Split(list, ",") {
		kind, name, ok := strings.Cut(word, ":")
		switch {
		case ok && name != "" && kind == "group":
			r.Groups = append(r.Groups, starferry.Group(name))
		case ok && name != "" && kind == "topic":
			r.Topics = append(r.Topics, starferry.Topic(name))
		default:
			return fmt.Errorf("service %s: %q: want group:NAME or topic:NAME", r.Name, word)
		}
	}
	return nil
}

// finish gives each role its inbox and key.
func finish(roles []*role, keys []string) error {
	byName := map[string]*role{}
	for _, r := range roles {
		if !userName.MatchString(r.Name) {
			return fmt.Errorf("name %q: want 1 to 64 letters, digits, - and _", r.Name)
		}
		if r.Name == trusted {
			return fmt.Errorf("the name %s is that of starferry's own account: take another", trusted)
		}
		if byName[r.Name] != nil {
			return fmt.Errorf("two users are named %s: give one another name", r.Name)
		}
		byName[r.Name] = r
		r.Inbox = "_INBOX_" + r.Name
		r.Access = r.And(jet.Access{Subscribe: []string{r.Inbox + ".>"}})
	}
	for _, k := range keys {
		name, key, _ := strings.Cut(k, "=")
		if byName[name] == nil || !regexp.MustCompile(`^U[A-Z2-7]{55}$`).MatchString(key) {
			return fmt.Errorf("--nkey %q: want NAME=KEY with the name of one of these users and its public key, 56 letters that begin with U", k)
		}
		byName[name].NKey = key
	}
	return nil
}

// own gives each service an account.
func own(roles []*role) {
	for _, r := range roles {
		r.Account = trusted
		if r.Role == "service" {
			r.Account, r.Inbox = r.Name, "_INBOX"
			r.Subscribe = slices.DeleteFunc(r.Subscribe, func(s string) bool { return strings.HasPrefix(s, "_INBOX") })
		}
	}
}

// trusted is the account of all that belongs to starferry itself.
const trusted = "STARFERRY"
