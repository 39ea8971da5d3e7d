package cli

import (
	"fmt"
	"slices"
	"strings"
)

const permissionsHead = `# What starferry needs at NATS. Printed by: starferry nats permissions
# Put it into the configuration of nats-server, which needs JetStream and, in
# production, TLS. Passwords come from the server's environment; a value that
# begins with $2a$ is a bcrypt hash.
`

// signIn is how a user proves who it is.
func (r *role) signIn() string {
	if r.NKey != "" {
		return fmt.Sprintf("nkey: %s", r.NKey)
	}
	return fmt.Sprintf("user: %q, password: $STARFERRY_%s_PASSWORD", r.Name, strings.ToUpper(strings.ReplaceAll(r.Name, "-", "_")))
}

func (r *role) about() string {
	text := r.Role
	if len(r.Groups) > 0 {
		text += fmt.Sprintf(", group %v", r.Groups)
	}
	if len(r.Topics) > 0 {
		text += fmt.Sprintf(", topic %v", r.Topics)
	}
	return strings.ReplaceAll(text, "\n", " ")
}

// user is one entry of a list of users, indented.
func (r *role) user(indent string) string {
	var out strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&out, indent+format+"\n", a...) }
	line("# %s; inbox prefix %s", r.about(), r.Inbox)
	line("{ %s", r.signIn())
	line("  permissions: {")
	line("    publish: { allow: [")
	for _, s := range r.Publish {
		line("      %q", s)
	}
	line("    ] }")
	line("    subscribe: { allow: [")
	for _, s := range r.Subscribe {
		line("      %q", s)
	}
	line("    ] }")
	if r.Responses {
		line("    allow_responses: true")
	}
	line("  }")
	line("}")
	return out.String()
}

// asUsers is the block for one account.
func asUsers(roles []*role) string {
	var out strings.Builder
	out.WriteString(permissionsHead + "authorization {\n  users: [\n")
	for _, r := range roles {
		out.WriteString(r.user("    "))
	}
	out.WriteString("  ]\n}\n")
	return out.String()
}

// asAccounts gives each service an account that imports what it needs. What it
// publishes is a service there: its answers come back into that account, wherever
// they are asked to go.
func asAccounts(roles []*role) string {
	var out strings.Builder
	out.WriteString(permissionsHead + "accounts {\n  " + trusted + ": {\n    jetstream: enabled\n    users: [\n")
	services, told := map[string][]string{}, map[string][]string{}
	for _, r := range roles {
		if r.Account == trusted {
			out.WriteString(r.user("      "))
			continue
		}
		for _, s := range r.Publish {
			services[s] = append(services[s], r.Account)
		}
		for _, s := range r.Subscribe {
			told[s] = append(told[s], r.Account)
		}
	}
	out.WriteString("    ]\n    exports: [\n")
	for _, kind := range []struct {
		name string
		of   map[string][]string
	}{{"service", services}, {"stream", told}} {
		for _, s := range sorted(kind.of) {
			fmt.Fprintf(&out, "      { %s: %q, accounts: [%s] }\n", kind.name, s, quoted(kind.of[s]))
		}
	}
	out.WriteString("    ]\n  }\n")
	for _, r := range roles {
		if r.Account == trusted {
			continue
		}
		fmt.Fprintf(&out, "  # %s\n  %q: {\n    users: [ { %s } ]\n    imports: [\n", r.about(), r.Account, r.signIn())
		for _, s := range r.Publish {
			fmt.Fprintf(&out, "      { service: { account: %s, subject: %q } }\n", trusted, s)
		}
		for _, s := range r.Subscribe {
			fmt.Fprintf(&out, "      { stream: { account: %s, subject: %q } }\n", trusted, s)
		}
		out.WriteString("    ]\n  }\n")
	}
	out.WriteString("}\n")
	return out.String()
}

func sorted(m map[string][]string) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(out, ", ")
}

// asNSC is the same as users of one account of an operator, by command lines.
func asNSC(roles []*role) string {
	var out strings.Builder
	out.WriteString("# Users of one account with JetStream. Afterwards: nsc push, and for each user\n# nsc generate creds --account " + trusted + " --name NAME > NAME.creds\n")
	out.WriteString("nsc add account --name " + trusted + "\nnsc edit account --name " + trusted + " --js-mem-storage -1 --js-disk-storage -1\n")
	for _, r := range roles {
		fmt.Fprintf(&out, "# %s; inbox prefix %s\nnsc add user --account %s --name %s", r.about(), r.Inbox, trusted, r.Name)
		if r.NKey != "" {
			fmt.Fprintf(&out, " --public-key %s", r.NKey)
		}
		fmt.Fprintf(&out, " \\\n  --allow-pub '%s' \\\n  --allow-sub '%s'", strings.Join(r.Publish, ","), strings.Join(r.Subscribe, ","))
		if r.Responses {
			out.WriteString(" \\\n  --allow-pub-response")
		}
		out.WriteString("\n")
	}
	return out.String()
}
