package agent

import (
	"path"

	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

// Pack loads a script from a source and packs it, with everything it loads, for
// an agent. Wrong scripts are found here, before any agent is asked.
func Pack(from scripting.Source, file string, params map[string]string) (api.RunRequest, error) {
	reg, err := builtins.Registry(builtins.Ports{})
	if err != nil {
		return api.RunRequest{}, err
	}
	files := map[string]string{}
	recording := func(p string) (string, error) {
		text, err := from(p)
		if err == nil {
			files[path.Clean(p)] = text
		}
		return text, err
	}
	if _, err := scripting.Load(recording, file, reg); err != nil {
		return api.RunRequest{}, err
	}
	return api.RunRequest{File: file, Files: files, Params: params}, nil
}
