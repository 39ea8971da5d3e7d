package scripting

// declarations are the words every script has, whatever the registry.
func declarations() []*Builtin {
	return append(flows(), []*Builtin{
		{Name: "migration", Class: Declare, Returns: "migration",
			Doc:     "Declares what the script does: its phases in order.",
			Example: `migration(name = "{group}-to-new", lock = ["{group}"], phases = [copy, switch])`,
			Params: []Param{
				{Name: "name", Type: StringType(), Required: true, Doc: "name of the runs; {param} stands for a parameter's value"},
				{Name: "phases", Type: AnyType(), Required: true, Doc: "list of phase(...)"},
				{Name: "lock", Type: ListType(), Doc: "one open run at a time may hold each of these; {param} as in name"},
			}},
		{Name: "phase", Class: Declare, Returns: "phase",
			Doc:     "Declares one step: check (may we?), do, verify (did it work?). Functions take m.",
			Example: `phase("copy", check = can_copy, do = copy, verify = copied)`,
			Params: []Param{
				{Name: "name", Type: StringType(), Required: true, Doc: "an identifier; what do returns is m.out.NAME afterwards"},
				{Name: "check", Type: AnyType(), Doc: "function that only looks, before do"},
				{Name: "do", Type: AnyType(), Required: true, Doc: "function that makes the change"},
				{Name: "verify", Type: AnyType(), Doc: "function that only looks, after do"},
				{Name: "undo", Type: AnyType(), Doc: "function that undoes the phase, instead of the inverse of each effect"},
				{Name: "on_fail", Type: StringType(), Default: "undo_phase", Doc: "undo_phase, hold (leave as is) or rollback (all phases)"},
				{Name: "irreversible", Type: BoolType(), Default: false, Doc: "True: there is no way back once do begins"},
				{Name: "approve", Type: StringType(), Doc: "question to a person; this version refuses it"},
			}},
		{Name: "params", Class: Declare, Returns: "None",
			Doc:     "Declares the script's parameters; their values are m.p.NAME.",
			Example: `params(group = param(string, "billing", "group to move"))`},
		{Name: "param", Class: Declare, Returns: "param",
			Doc:     "One parameter: its type, default and meaning.",
			Example: `param(duration, "30m", "how long to watch")`,
			Params: []Param{
				{Name: "type", Type: AnyType(), Required: true, Doc: "string, int, float, bool, list, duration, rate, size, cluster, group, link, position"},
				{Name: "default", Type: AnyType(), Doc: "value if none is given"},
				{Name: "doc", Type: StringType(), Doc: "one line for people"},
				{Name: "required", Type: BoolType(), Default: false, Doc: "True: must be given"},
			}},
	}...)
}
